"""Files of one's own: read rightly, or refused with a mend that works.

What `look` says of them; what a filled row may hold.
"""

import shlex

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forecastlab import Panel
from forecastlab.core.basics import LabError
from forecastlab.core.cli import main
from forecastlab.core.datasets import read_panel
from forecastlab.core.reader import Settings, understand
from forecastlab.core.tables import open_table, read_dates, read_numbers
from messy_files import MESSY, WEEKS, compared, csv, holes, local, named
from messy_files import outcome, planned


@pytest.mark.parametrize("kind", MESSY)
def test_a_messy_file_is_read_rightly_or_refused_with_a_mend_that_works(kind, tmp_path):
    assert not outcome(MESSY[kind], tmp_path).startswith("WRONG"), outcome(
        MESSY[kind], tmp_path
    )


@pytest.mark.parametrize("form", [pl.from_pandas, pa.Table.from_pandas, pl.LazyFrame])
def test_every_kind_of_frame_is_read_alike(form):
    panel = understand(form(WEEKS), Settings()).panel()
    assert not compared(MESSY["commas"], panel)


def test_all_faults_are_said_at_once_in_the_words_of_the_door(tmp_path):
    rows = holes(WEEKS, 3).astype({"y": object})
    rows.loc[5, "y"] = "sold out"
    rows = pd.concat([rows, rows[:2]])
    (tmp_path / "a.csv").write_bytes(csv(rows, sep=";"))
    for door, words in (
        ("python", ("fill=0", "repeated='sum'", "no numbers: sold out")),
        ("command", ("-p fill zero", "-p repeated sum", "no numbers: sold out")),
    ):
        with pytest.raises(LabError) as e:
            read_panel(tmp_path / "a.csv", door=door)
        assert all(word in str(e.value) for word in words)


def test_look_says_what_was_understood_and_the_command_that_it_prints_works(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    frame = named(holes(planned(WEEKS), 3), "Filiale", "Woche", "Absatz", "Preis")
    (tmp_path / "absatz.csv").write_bytes(
        csv(frame, "cp1252", sep=";", decimal=",", date_format="%d.%m.%Y")
    )
    assert main(["look", "absatz.csv"]) == 1
    said = capsys.readouterr().out
    for words in (
        "2 named by Filiale (text)",
        "2024-01-07 .. 2024-10-06, frequency W-SUN",
        "1 missing rows in 1 series",
        "8 rows of 2 series, 4 steps after the last date (Preis)",
        "decimal comma",
        "007 at 2024-01-28. Say what a missing row means: `-p fill zero`",
    ):
        assert words in said
    words = shlex.split(said.splitlines()[-1])
    assert words[:3] == ["forecastlab", "run", "demand_forecast"]
    given = [w for w in words[3:] if w != "data"]
    given.remove("absatz.csv")
    given = given[1:]  # its -p
    assert main(["look", "absatz.csv", *given, "-p", "fill", "missing"]) == 0
    assert "1 missing rows as not observed" in capsys.readouterr().out


def test_look_counts_what_a_person_would_ask_for(tmp_path, capsys):
    frame = WEEKS.copy()
    frame.loc[4, "y"] = -3
    frame = pd.concat([frame, frame[7:9]])
    (tmp_path / "a.csv").write_bytes(csv(frame))
    assert main(["look", str(tmp_path / "a.csv"), "-p", "horizont", "8"]) == 2
    assert main(["look", str(tmp_path / "a.csv")]) == 1
    out, err = capsys.readouterr()
    assert "2 rows repeat a series and date" in out and "1 negative" in out
    assert "look has no such parameter: horizont" in err


def test_integers_come_back_as_integers_and_zeros_stay(tmp_path):
    for names, kind in ((("7", "12"), "int64"), (("07", "12"), "object")):
        frame = WEEKS.assign(unique_id=np.repeat(names, 40))
        (tmp_path / "a.csv").write_bytes(csv(frame))
        panel = read_panel(tmp_path / "a.csv")
        assert panel.to_frame().unique_id.dtype == kind
        assert panel.take([0]).names.dtype == panel.names.dtype
        panel.save(tmp_path / kind, overwrite=True)
        again = Panel.load(tmp_path / kind)
        assert again.names.tolist() == panel.names.tolist()


# --- filled rows


def days(n=90):
    return pd.date_range("2024-01-01", periods=n)


def test_calendar_columns_of_filled_rows_come_from_their_date():
    d = days()
    columns = dict(
        weekday=d.dayofweek + 1,
        weekend=(d.dayofweek > 4).astype(int),
        pay=(d.day == 14).astype(int),
        month=d.month,
        end=d.is_month_end.astype(int),
        name=d.day_name(),
        trend=np.arange(len(d)),
    )
    whole = pd.DataFrame({"unique_id": "a", "ds": d, "y": 1.0, **columns})
    some = whole.drop(index=[12, 14, 30, 44, 45, 50])
    known = list(columns)
    full = Panel.from_frame(whole, freq="D", known=known)
    for fill in (0, "missing"):
        panel = Panel.from_frame(some, freq="D", known=known, fill=fill)
        for n in known:
            right, got = (
                np.array(p.categories[n])[p.known[n]] if n == "name" else p.known[n]
                for p in (full, panel)
            )
            assert got.tolist() == right.tolist(), n


def test_flags_of_filled_rows_come_from_rows_of_the_same_date_never_from_the_eve():
    d = days(40)
    fair = np.isin(np.arange(40), (11, 23)).astype(float)
    rng = np.random.default_rng(0)
    shops = [
        pd.DataFrame(
            dict(
                unique_id=f"s{i}",
                ds=d,
                y=1.0,
                fair=fair,
                promo=((np.arange(40) + i) % 10 == 0) * 1.0,
                price=rng.uniform(1, 3, 40),
                sky=np.where(fair > 0, "sun", "rain"),
            )
        )
        for i in range(3)
    ]
    # the day after the fair, the fair itself, and the day after a promotion
    shops[0] = shops[0].drop(index=[12, 23, 31])
    whole = pd.concat(shops)
    panel = Panel.from_frame(
        whole, freq="D", known=["fair", "promo", "price", "sky"], fill=0
    )
    assert panel.known["fair"][:40].tolist() == fair.tolist()
    assert panel.known["promo"][31] == 0
    words = np.array(panel.categories["sky"])[panel.known["sky"]]
    assert words[12] == "rain" and words[23] == "sun"
    # a price is carried
    assert panel.known["price"][12] == panel.known["price"][11]


def test_what_never_changes_within_a_series_is_carried_and_not_voted_on():
    d = days(20)
    shops = [
        pd.DataFrame(dict(unique_id=n, ds=d, y=1.0, fresh=f, hall=h))
        for n, f, h in (("a", 1.0, "north"), ("b", 0.0, "south"), ("c", 0.0, "south"))
    ]
    shops[0] = shops[0].drop(index=[5, 6])
    panel = Panel.from_frame(
        pd.concat(shops), freq="D", known=["fresh", "hall"], fill="missing"
    )
    assert (panel.known["fresh"][:20] == 1).all()
    halls = np.array(panel.categories["hall"])[panel.known["hall"]]
    assert set(halls[:20]) == {"north"}


@pytest.mark.parametrize("fill", [0, "missing"])
def test_a_series_that_ended_early_has_its_plan_like_the_others(fill):
    d = pd.date_range("2024-01-07", periods=34, freq="W-SUN")
    rows = [
        pd.DataFrame({"unique_id": n, "ds": d[:k], "y": 2.0, "promo": 0.0})
        for n, k in (("on", 30), ("ended", 25))
    ]
    plan = pd.DataFrame(
        {"unique_id": ["on", "ended"] * 4, "ds": d[30:].repeat(2), "promo": 1.0}
    )
    known = dict(freq="W-SUN", known="promo", future=plan)
    panel = Panel.from_frame(pd.concat(rows), fill=fill, **known)
    assert panel.ahead.tolist() == [4, 4] and panel.length.tolist() == [30, 30]
    assert np.isnan(panel.history("ended")[-5:]).all() == (fill == "missing")
    with pytest.raises(LabError, match="ended"):
        Panel.from_frame(pd.concat(rows), **known)
    # a plan that begins too late for everybody is no hole of one series
    with pytest.raises(LabError, match="one step after the history"):
        Panel.from_frame(
            pd.concat(rows), fill=fill, **known | dict(future=plan[plan.ds > d[30]])
        )


def test_numbers_in_training_are_not_text_in_a_forecast():
    d = days(60)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        dict(unique_id="a", ds=d, y=rng.random(60), price=rng.random(60))
    )
    numbers = Panel.from_frame(frame, freq="D", known=["price"])
    text = Panel.from_frame(
        frame.assign(
            price=frame.price.map("{:.2f}".format)
            .str.replace(".", ",")
            .astype("category")
        ),
        freq="D",
        known=["price"],
    )
    with pytest.raises(LabError, match="numbers in training and are text now: price"):
        text.recode(numbers.categories, ["price"])
    # the reader knows such a column for what it is
    said = Settings(known=["price"])
    seen = understand(text.to_frame(), said).panel()
    assert "price" not in seen.categories


# --- more files


def test_columns_by_date_are_joined_to_every_series_and_reach_ahead(tmp_path):
    daily = pd.DataFrame(
        {
            "unique_id": np.repeat(["a", "b"], 30),
            "ds": np.tile(days(30), 2),
            "y": 1.0,
        }
    )
    feasts = b"ds;holiday;name\n14.01.2024;1;fair\n02.02.2024;1;mass\n"
    (tmp_path / "feasts.csv").write_bytes(feasts)
    panel = read_panel(
        daily.drop(index=13), by_date=tmp_path / "feasts.csv", ahead=7, fill=0
    )
    assert panel.ahead.tolist() == [7, 7]
    holiday = panel.known["holiday"].reshape(2, 37)
    assert (holiday == np.isin(np.arange(37), (13, 32))).all()
    names = np.array(panel.categories["name"])[panel.known["name"]].reshape(2, 37)
    assert names[0, 13] == "fair" and names[1, 12] == "none"
    # days are counted into weeks
    weekly = read_panel(WEEKS, by_date=tmp_path / "feasts.csv", ahead=2)
    assert np.flatnonzero(weekly.known["holiday"][:42]).tolist() == [1, 4]


def test_the_command_that_look_prints_names_no_column_of_another_file(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_bytes(csv(named(WEEKS, "shop", "week", "sold")))
    (tmp_path / "feasts.csv").write_bytes(b"ds;holiday\n14.01.2024;1\n")
    assert main(["look", "a.csv", "-p", "by_date", "feasts.csv"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert "known" not in words and words[-2:] == ["by_date", "feasts.csv"]
    given = words[words.index("a.csv") + 1 :]
    assert main(["look", "a.csv", *given]) == 0
    assert "holiday by date, for every series" in capsys.readouterr().out


def test_words_of_the_owner_that_mean_nothing_are_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(csv(WEEKS))
    for name, value, words in (
        ("repeated", "max", "Leave it out, or choose 'sum', 'mean', 'first' or 'last'"),
        ("dates", "iso", "Leave it out, or choose 'day', 'month' or 'year'"),
        ("freq", "0", "an integer freq must be at least 1"),
    ):
        assert main(["look", str(tmp_path / "a.csv"), "-p", name, value]) == 2
        assert words in capsys.readouterr().err


def test_names_that_are_the_same_number_are_noted():
    names = np.repeat(["1", "1.0", "007", "7"], 20)
    said = understand(WEEKS.assign(unique_id=names), Settings(id="unique_id"))
    note = "the same number, read as different: '1' and '1.0', '007' and '7'"
    assert any(note in n for n in said.notes)


def test_a_plan_in_a_file_is_read_like_the_data(tmp_path):
    (tmp_path / "a.csv").write_bytes(csv(WEEKS.assign(price=3.5), sep=";", decimal=","))
    plan = planned(WEEKS)[80:].drop(columns="y")
    (tmp_path / "plan.csv").write_bytes(
        csv(plan, sep="\t", date_format="%d/%m/%Y", decimal=",")
    )
    said = dict(known=["price"], door="command")
    panel = read_panel(tmp_path / "a.csv", future=tmp_path / "plan.csv", **said)
    assert panel.ahead.tolist() == [4, 4]
    late = plan[plan.ds > plan.ds.min()]
    with pytest.raises(LabError, match="the plan lacks steps: 007 at 2024-10-13"):
        read_panel(tmp_path / "a.csv", future=late, **said)
    with pytest.raises(LabError, match=r"no column is known ahead.*-p known"):
        read_panel(tmp_path / "a.csv", future=plan, door="command")


def test_a_plan_follows_the_clock_of_its_history():
    # it ends in summer, after an autumn and a spring
    wall, right = local("Europe/Berlin", "2023-10-01")
    cut = len(wall) - 100
    plan = wall[cut:].drop(columns="y").assign(price=1.0)
    panel = read_panel(wall[:cut].assign(price=2.0), known="price", future=plan)
    assert panel.ahead.tolist() == [100]
    assert (panel.to_frame().ds.values == right.ds.values[:cut]).all()


def test_a_workbook_is_read_or_refused_in_words(tmp_path):
    path = tmp_path / "a.xlsx"
    try:
        WEEKS.to_excel(path, index=False, startrow=2)
    except ModuleNotFoundError:
        pytest.skip("openpyxl is an extra")
    panel = read_panel(path)
    assert not compared(MESSY["commas"], panel)


def test_the_first_sheet_with_a_table_is_read(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    words = pd.DataFrame({"Author": ["me", "you"], "Room": ["here", "there"]})
    with pd.ExcelWriter(path) as book:
        words.to_excel(book, sheet_name="Read me", index=False)
        WEEKS.to_excel(book, sheet_name="Data", index=False)
    assert not compared(MESSY["commas"], read_panel(path))
    assert open_table(path).notes == ["the sheet 'Data' was read, not Read me"]
    units = pd.DataFrame({"y": ["pieces"]})
    pd.concat([WEEKS[:0], units, WEEKS]).to_excel(path, index=False)
    with pytest.raises(LabError, match="two rows"):
        open_table(path)


def test_a_workbook_without_openpyxl_is_one_clear_error(tmp_path, monkeypatch):
    import sys
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(LabError, match="pip install openpyxl"):
        read_panel(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"PAR1 but no more", "truncated or corrupt"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read"),
        (b"PK\x03\x04broken", "cannot be read"),
        (b"ARROW1broken", "cannot be read"),
        (b"a\n1\n2\n", "the file has one column"),
        (b"unique_id,ds,y\n", "no rows"),
        (b"unique_id,ds,y\na,2024-01-07,\na,2024-01-08,\n", "is empty"),
        (bytes(range(256)) * 40, "."),
    ],
)
def test_a_broken_file_is_one_clear_error(content, words, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(LabError, match=words):
        read_panel(tmp_path / "a.csv")


def test_a_date_far_away_takes_no_memory():
    frame = pd.DataFrame(dict(unique_id="a", ds=[0, 1, 2 * 10**9], y=1.0))
    for fill in (None, 0, "missing"):
        with pytest.raises(LabError, match="1,999,999,998 rows"):
            read_panel(frame, freq=1, fill=fill)


def test_cells_of_every_kind_have_one_reading():
    column = lambda *cells: pa.chunked_array([list(cells)])
    assert read_numbers(column("12 %", "7%")).values.tolist() == [12, 7]
    assert read_numbers(column("1.5e3", "-.5")).values.tolist() == [1500, -0.5]
    assert read_numbers(column("ja", "nein", None)).values[:2].tolist() == [1, 0]
    assert read_dates(column("2024-02-30")).fault
    assert read_dates(column("13/13/2024")).fault
    assert read_dates(column("soon")).fault
    for text, right in (
        ("24.12.2024 24:00", "2024-12-25T00:00"),
        ("2024-12-24T10:15:30.25Z", "2024-12-24T10:15"),
        ("1735689600", "2025-01-01T00:00"),
        ("1735689600000", "2025-01-01T00:00"),
        ("Dez 2024", "2024-12-01T00:00"),
        ("3 août 2024", "2024-08-03T00:00"),
        ("2020-W53", "2020-12-28T00:00"),
        ("2024-01-01/2024-01-07", "2024-01-07T00:00"),
    ):
        assert str(read_dates(column(text)).wall[0])[:16] == right, text
    assert read_dates(column("2021-W53")).fault


def test_a_year_of_two_digits_comes_first_only_where_nothing_else_can():
    column = lambda *cells: pa.chunked_array([list(cells)])
    alone = read_dates(column("23-11-13", None)).fault.words("command")
    assert "`-p dates day` or `-p dates year`" in alone
    # one day a month for twenty years, or twenty days of each month of one
    cells = [f"24-{m:02d}-{d:02d}" for m in range(1, 13) for d in range(1, 21)]
    assert read_dates(column(*cells)).fault
    assert str(read_dates(column(*cells), dates="year").wall[-1])[:10] == "2024-12-20"
    american = [f"{d:%m/%d/%Y}" for d in pd.date_range("2024", periods=40)]
    assert read_dates(column(*american), dates="day").share == 1


def test_a_frame_is_opened_without_being_changed():
    frame = WEEKS.assign(ds=WEEKS.ds.astype(str))
    before = frame.copy()
    opened = open_table(frame)
    assert opened.table.num_rows == 80 and frame.equals(before)
