"""Messy files of every kind, each one line: how it is written, what is said of it.

A kind is right if the panel equals the truth, or if it is refused in words of the
command line and the mend that those words offer leads to the truth.
"""

import gzip
import io
import shlex
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from forecastlab.core.basics import LabError
from forecastlab.core.reader import Settings, understand

NAMES = ("007", "Crème 12")


def truth(freq="W-SUN", n=40, names=NAMES, first="2024-01-07", seed=0):
    "Two series, known exactly."
    days = pd.date_range(first, periods=n, freq=freq)
    y = np.random.default_rng(seed).integers(0, 8000, (len(names), n)) / 4
    frames = [
        pd.DataFrame({"unique_id": name, "ds": days, "y": y[i]})
        for i, name in enumerate(names)
    ]
    return pd.concat(frames, ignore_index=True)


WEEKS = truth()
DAYS = truth("D")
MONTHS = truth("MS", first="2022-01-01")
QUARTERS = truth("QS", 12, first="2021-01-01")
YEARS = truth("YS", 12, first="2010-01-01")
NINETIES = truth("D", first="1997-01-05")
ENDS = MONTHS.ds + pd.offsets.MonthEnd(0)
HOURS = truth("h", 24 * 40, first="2024-03-10", names=("a",))
NUMBERED = truth(names=("7", "12"))


@dataclass
class Messy:
    "A file, what is said of it, and what should come of it."

    content: object  # bytes, or a frame
    right: pd.DataFrame  # unique_id, ds, y
    freq: object = None  # of the panel; None: it does not matter
    said: dict = field(default_factory=dict)  # settings
    mend: str = ""  # part of the command line that the refusal offers; "": it is read
    suffix: str = "csv"
    check: object = None  # more to ask of the panel


def csv(frame, encoding="utf-8", **options):
    "Bytes of a CSV file."
    return frame.to_csv(index=False, **options).encode(encoding)


def dated(frame, form):
    "Dates written in another form: a strftime pattern, or a function."
    how = form if callable(form) else (lambda d: d.strftime(form))
    return frame.assign(ds=[how(d) for d in frame.ds])


def named(frame, *names):
    "Other names of the columns."
    return frame.set_axis(list(names), axis=1)


def worded(frame, form):
    "Targets written in another form."
    return frame.assign(y=[form(v) for v in frame.y])


def german(v):
    "1234.5 as 1.234,50"
    return turned(f"{v:,.2f}", True)


def turned(number, now):
    "Marks exchanged, now and then"
    return number.translate(str.maketrans(",.", ".,")) if now else number


def packed(frame, kind):
    "A binary file of a frame."
    sink = io.BytesIO()
    getattr(frame, f"to_{kind}")(sink)
    return sink.getvalue()


def two(frame):
    "The name in two columns."
    parts = frame.unique_id.map({"007": ("n", "01"), "Crème 12": ("s", "02")})
    shop, item = zip(*parts)
    return frame.drop(columns="unique_id").assign(shop=shop, item=item)


def joined(frame):
    "Names as several columns give them."
    names = {"007": "n|01", "Crème 12": "s|02"}
    return frame.assign(unique_id=frame.unique_id.map(names))


def holes(frame, *rows):
    "The frame without some rows."
    return frame.drop(index=list(rows))


def filled(frame, value, *rows):
    "The frame with another target in some rows."
    changed = frame.copy()
    changed.loc[list(rows), "y"] = value
    return changed


def planned(frame, steps=4, freq="W-SUN"):
    "Plan rows below the history: a price, and no target."
    later = pd.date_range(frame.ds.max(), periods=steps + 1, freq=freq)[1:]
    plan = [
        pd.DataFrame({"unique_id": n, "ds": later, "y": np.nan, "price": 2.5})
        for n in frame.unique_id.unique()
    ]
    return pd.concat([frame.assign(price=3.5), *plan], ignore_index=True)


def ahead(panel):
    "Four planned steps for each series, at their price."
    later = panel.known["price"][panel.indptr[:-1] + panel.length]
    return (panel.ahead == 4).all() and (later == 2.5).all()


def whole_names(panel):
    "Names that are whole numbers again."
    return panel.to_frame().unique_id.dtype == np.int64


def local(zone, first="2024-03-10", days=280):
    "Hours of a clock on the wall, and their truth in the time of its winter."
    zoned = pd.date_range(first, periods=24 * days, freq="h", tz=zone)
    frame = truth("h", len(zoned), ("a",), first)
    shift = pd.Timestamp("2024-01-15" if "Aus" not in zone else "2024-07-15", tz=zone)
    winter = zoned.tz_convert("UTC").tz_localize(None) + shift.utcoffset()
    return frame.assign(ds=zoned.tz_localize(None)), frame.assign(ds=winter)


def parted(frame, *forms):
    "The date in several columns: strftime patterns, or functions."
    parts = {
        f"part{i}": [f(d) if callable(f) else d.strftime(f) for d in frame.ds]
        for i, f in enumerate(forms)
    }
    return frame.drop(columns="ds").assign(**parts)


def quarter(d):
    "Q2"
    return f"Q{d.quarter}"


def moments(frame, step="3607s"):
    "Sales of several shops in turn, never two at the same moment."
    order = np.argsort(np.arange(len(frame)) % 40, kind="stable")
    when = pd.date_range("2024-01-01", periods=len(frame), freq=step)
    if step.endswith("s"):
        when += pd.to_timedelta(np.arange(len(frame)) ** 2 % 1777, "s")
    return frame.iloc[order].assign(ds=when)


def serial(d):
    "A workbook's number of a day."
    return (d - pd.Timestamp("1899-12-30")).days


def mangled(d):
    "12/31/2024 as a spreadsheet reads it that expects 31/12/2024."
    return f"{d:%Y-%d-%m 00:00:00}" if d.day < 13 else f"{d:%m/%d/%Y}"


def by_day(frame):
    "Sums of days."
    days = frame.assign(ds=frame.ds.dt.normalize())
    return days.groupby(["unique_id", "ds"], as_index=False).y.sum()


BERLIN, SYDNEY = local("Europe/Berlin"), local("Australia/Sydney")
YORK = pd.date_range("2024-03-01", periods=40, tz="America/New_York")
ISO = lambda d: f"{d.isocalendar()[0]}-W{d.isocalendar()[1]:02d}"
MONDAYS = WEEKS.assign(ds=WEEKS.ds - pd.Timedelta("6D"))
EARLY = MONDAYS.groupby("unique_id").head(12)  # weeks of January to March
SPLIT = pd.concat([WEEKS.assign(y=WEEKS.y * 0.25), WEEKS.assign(y=WEEKS.y * 0.75)])
FEW = truth("D", 12, first="2024-01-01")
ZERO = dict(fill=0.0, align_end=True)
MESSY = {
    # separators, marks and encodings
    "commas": Messy(csv(WEEKS), WEEKS, "W-SUN"),
    "semicolons": Messy(csv(WEEKS, sep=";"), WEEKS, "W-SUN"),
    "tabs": Messy(csv(WEEKS, sep="\t"), WEEKS, suffix="tsv"),
    "bars": Messy(csv(WEEKS, sep="|"), WEEKS, suffix="txt"),
    "semicolons, decimal commas": Messy(csv(WEEKS, sep=";", decimal=","), WEEKS),
    "decimal commas in quotes": Messy(csv(WEEKS, decimal=","), WEEKS),
    "1.234,50": Messy(csv(worded(WEEKS, german), sep=";"), WEEKS),
    "1,234.50": Messy(csv(worded(WEEKS, lambda v: f"{v:,.2f}")), WEEKS),
    "1 234,50": Messy(
        csv(worded(WEEKS, lambda v: german(v).replace(".", "\u202f")), sep=";"), WEEKS
    ),
    "1'234.50": Messy(
        csv(worded(WEEKS, lambda v: f"{v:,.2f}".replace(",", "'"))), WEEKS
    ),
    "€ 1.234,50": Messy(csv(worded(WEEKS, lambda v: f"{german(v)} €"), sep=";"), WEEKS),
    "$1,234.50": Messy(csv(worded(WEEKS, lambda v: f"${v:,.2f}")), WEEKS),
    "1,234 in whole thousands": Messy(
        csv(worded(WEEKS, lambda v: f"{int(v) + 1000:,}")),
        WEEKS.assign(y=np.floor(WEEKS.y) + 1000),
        mend="-p decimal .",
    ),
    "0.25 beside 7,25": Messy(
        csv(worded(WEEKS, lambda v: turned(f"{v:.2f}", v > 1000)), sep=";"),
        None,
        mend="decimal",
    ),
    "0.25 beside 7,25 in quotes": Messy(
        csv(worded(WEEKS, lambda v: turned(f"{v:.2f}", v > 1990))), None, mend="decimal"
    ),
    "1,234.5 beside 1.234,5": Messy(
        csv(worded(WEEKS, lambda v: turned(f"{v:,.2f}", v > 1990)), sep=";"),
        None,
        mend="decimal",
    ),
    "two marks, and the owner says one": Messy(
        csv(filled(worded(WEEKS, str), "12,75", 3), sep=";"),
        None,
        said=dict(decimal="."),
        mend="12,75",
    ),
    "12.34,5": Messy(
        csv(filled(worded(WEEKS, german), "12.34,5", 3), sep=";"), None, mend="12.34,5"
    ),
    "1.2.3": Messy(
        csv(filled(WEEKS.astype({"y": object}), "1.2.3", 3)), None, mend="1.2.3"
    ),
    "1,23,456.50": Messy(
        csv(filled(worded(WEEKS, str), "12,34,567.50", 3)), filled(WEEKS, 1234567.5, 3)
    ),
    "($1.50)": Messy(
        csv(worded(WEEKS, lambda v: f"(${v + 1:,.2f})")), WEEKS.assign(y=-WEEKS.y - 1)
    ),
    "minus behind": Messy(
        csv(worded(WEEKS, lambda v: f"{german(v)}-"), sep=";"),
        WEEKS.assign(y=-WEEKS.y),
    ),
    "byte order mark": Messy(csv(WEEKS, "utf-8-sig"), WEEKS),
    "latin-1": Messy(csv(WEEKS, "latin-1"), WEEKS),
    "Polish letters": Messy(
        csv(truth(names=("Łódź", "Kraków")), "cp1250"), None, mend="as UTF-8"
    ),
    "Japanese letters": Messy(
        csv(truth(names=("東京", "大阪")), "shift_jis"), None, mend="as UTF-8"
    ),
    "a Western line in UTF-8": Messy(
        csv(WEEKS) + "Öl,2024-01-07,1\n".encode("cp1252"), None, mend="line 82"
    ),
    "utf-16": Messy(csv(WEEKS, "utf-16", sep="\t"), WEEKS, suffix="txt"),
    "windows lines": Messy(csv(WEEKS, lineterminator="\r\n"), WEEKS),
    "title above": Messy(b"Sales report\n2024\n\n" + csv(WEEKS), WEEKS),
    "remarks above": Messy(
        b"# exported\n# by me, who else, no one\n// 2024\n" + csv(WEEKS), WEEKS
    ),
    "the header is a remark": Messy(b"# " + csv(WEEKS), WEEKS),
    "no names for the last commas": Messy(
        csv(WEEKS.assign(x="")).replace(b",x\n", b"\n"), WEEKS
    ),
    "decimal commas without quotes": Messy(
        csv(WEEKS, decimal=",", quoting=1).replace(b'"', b""),
        None,
        mend="the header has 3 names, the rows have 4 cells",
    ),
    "decimal commas without quotes, now and then": Messy(
        csv(worded(WEEKS, lambda v: f"{v:g}".replace(".", ",")), quoting=1).replace(
            b'"', b""
        ),
        None,
        mend="names, the rows have 4 cells",
    ),
    "row names without a name": Messy(
        csv(WEEKS.reset_index()).replace(b"index,", b""),
        None,
        mend="the header has 3 names, the rows have 4 cells",
    ),
    "a row of groups above the names": Messy(
        b",,Sales\n" + csv(WEEKS), None, mend="two rows"
    ),
    "a row of units below the names": Messy(
        csv(WEEKS).replace(b",y\n", b",y\n,,pieces\n"), None, mend="two rows"
    ),
    "a header and no rows": Messy(csv(WEEKS[:0]), None, mend="no rows"),
    "JSON": Messy(
        WEEKS.to_json(orient="records").encode(), None, mend="is JSON, not a table"
    ),
    "lines of JSON": Messy(
        WEEKS.to_json(orient="records", lines=True).encode(),
        None,
        mend="is JSON, not a table",
    ),
    "HTML": Messy(WEEKS.to_html().encode(), None, mend="is HTML or XML, not a table"),
    "sep= line": Messy(b"sep=;\n" + csv(WEEKS, sep=";"), WEEKS),
    "empty lines and columns": Messy(
        csv(WEEKS.assign(**{" ": None}), sep=";") + b";;;\n;;;\n", WEEKS
    ),
    "quotes everywhere": Messy(csv(WEEKS, quoting=1), WEEKS),
    "blanks in the header": Messy(
        csv(named(WEEKS, " unique_id", "ds ", " y "), sep=";"), WEEKS
    ),
    "no header": Messy(
        csv(WEEKS, header=False),
        WEEKS,
        said=dict(id="column1", time="column2", target="column3"),
    ),
    # names
    "leading zeros": Messy(csv(truth(names=("007", "7"))), truth(names=("007", "7"))),
    "whole numbers": Messy(csv(NUMBERED), NUMBERED, check=whole_names),
    "whole numbers in a frame": Messy(
        NUMBERED.astype({"unique_id": int}), NUMBERED, check=whole_names
    ),
    "whole numbers as floats": Messy(
        NUMBERED.astype({"unique_id": float}), NUMBERED, check=whole_names
    ),
    "text of digits in a frame": Messy(
        truth(names=("07", "12")), truth(names=("07", "12"))
    ),
    "two columns of names": Messy(
        csv(two(WEEKS)), joined(WEEKS), said=dict(id="shop,item")
    ),
    "one series without a name": Messy(
        csv(WEEKS[:40].drop(columns="unique_id")),
        WEEKS[:40].assign(unique_id="series"),
        said=dict(id=""),
    ),
    "NA is a region": Messy(csv(truth(names=("NA", "EU"))), truth(names=("NA", "EU"))),
    # dates
    "31.12.2024": Messy(csv(dated(WEEKS, "%d.%m.%Y"), sep=";"), WEEKS),
    "31/12/2024": Messy(csv(dated(WEEKS, "%d/%m/%Y")), WEEKS),
    "12/31/2024": Messy(csv(dated(WEEKS, "%m/%d/%Y")), WEEKS),
    "31-12-24": Messy(csv(dated(WEEKS, "%d-%m-%y")), WEEKS),
    "24-12-31": Messy(csv(dated(DAYS, "%y-%m-%d")), DAYS, "D"),
    "24/12/31 in weeks": Messy(csv(dated(WEEKS, "%y/%m/%d")), WEEKS, "W-SUN"),
    "24-12-01 in months": Messy(csv(dated(MONTHS, "%y-%m-%d")), MONTHS, "MS"),
    "97-12-31": Messy(csv(dated(NINETIES, "%y-%m-%d")), NINETIES, "D"),
    "31/12/24 in months": Messy(
        csv(dated(MONTHS.assign(ds=ENDS), "%d/%m/%y")), MONTHS.assign(ds=ENDS), "ME"
    ),
    "12/31/24": Messy(csv(dated(DAYS, "%m/%d/%y")), DAYS, "D"),
    "days without a year": Messy(
        csv(dated(DAYS, "%b-%d")), None, mend="without a year"
    ),
    "twelve days of dd/mm": Messy(
        csv(dated(FEW, "%d/%m/%Y")), FEW, "D", mend="-p dates day"
    ),
    "twelve months of dd/mm": Messy(
        csv(dated(MONTHS, "%d/%m/%Y")), MONTHS, "MS", mend="-p dates day"
    ),
    "twelve months of mm/dd": Messy(
        csv(dated(MONTHS, "%m/%d/%Y")), MONTHS, "MS", mend="-p dates month"
    ),
    "months with dots": Messy(csv(dated(MONTHS, "%d.%m.%Y"), sep=";"), MONTHS, "MS"),
    "20241231": Messy(csv(dated(WEEKS, "%Y%m%d")), WEEKS, "W-SUN"),
    "20241231 in a frame": Messy(dated(WEEKS, lambda d: int(f"{d:%Y%m%d}")), WEEKS),
    "2024/12/31 00:00": Messy(csv(dated(WEEKS, "%Y/%m/%d %H:%M")), WEEKS),
    "31 Dec 2024": Messy(csv(dated(WEEKS, "%d %b %Y")), WEEKS),
    "Dec 31, 2024": Messy(csv(dated(WEEKS, "%b %d, %Y")), WEEKS),
    "Sunday 31 December": Messy(csv(dated(WEEKS, "%A %d %B %Y")), WEEKS),
    "12/31/2024 5:00 PM": Messy(csv(dated(HOURS, "%m/%d/%Y %I:%M %p")), HOURS, "h"),
    "2024-12": Messy(csv(dated(MONTHS, "%Y-%m")), MONTHS, "MS"),
    "202412": Messy(csv(dated(MONTHS, "%Y%m")), MONTHS, "MS"),
    "2024M12": Messy(csv(dated(MONTHS, "%YM%m")), MONTHS, "MS"),
    "12/2024": Messy(csv(dated(MONTHS, "%m/%Y")), MONTHS, "MS"),
    "Dec-24": Messy(csv(dated(MONTHS, "%b-%y")), MONTHS, "MS"),
    "December 2024": Messy(csv(dated(MONTHS, "%B %Y")), MONTHS, "MS"),
    "2024 and 12": Messy(
        csv(
            MONTHS.assign(jahr=MONTHS.ds.dt.year, monat=MONTHS.ds.dt.month).drop(
                columns="ds"
            )
        ),
        MONTHS,
        "MS",
        dict(time="jahr,monat"),
    ),
    "middle of the month": Messy(
        csv(MONTHS.assign(ds=MONTHS.ds + pd.Timedelta("14D"))), MONTHS, "MS"
    ),
    "last business day": Messy(
        csv(MONTHS.assign(ds=MONTHS.ds + pd.offsets.BMonthEnd(0))), MONTHS, "MS"
    ),
    "month ends": Messy(
        csv(MONTHS.assign(ds=MONTHS.ds + pd.offsets.MonthEnd(0))),
        MONTHS.assign(ds=MONTHS.ds + pd.offsets.MonthEnd(0)),
        "ME",
    ),
    "2024-Q4": Messy(
        csv(dated(QUARTERS, lambda d: f"{d.year}-Q{d.quarter}")), QUARTERS, "QS-JAN"
    ),
    "Q4 2024": Messy(
        csv(dated(QUARTERS, lambda d: f"Q{d.quarter} {d.year}")), QUARTERS, "QS-JAN"
    ),
    "2024": Messy(csv(dated(YEARS, "%Y")), YEARS, "YS-JAN"),
    "2024-W05": Messy(csv(dated(WEEKS, ISO)), MONDAYS, "W-MON"),
    "2024-W05 as Sundays": Messy(
        csv(dated(WEEKS, ISO)), WEEKS, "W-SUN", dict(freq="W-SUN")
    ),
    "KW 05/2024": Messy(
        csv(dated(WEEKS, lambda d: f"KW {d.isocalendar()[1]:02d}/{d.year}")), MONDAYS
    ),
    "202405 as weeks": Messy(
        csv(dated(WEEKS, lambda d: ISO(d).replace("-W", ""))), MONDAYS, "W-MON"
    ),
    "counted": Messy(csv(WEEKS.assign(ds=[*range(40)] * 2)), None, 1),
    "periods of months": Messy(
        MONTHS.assign(ds=MONTHS.ds.dt.to_period("M")), MONTHS, "MS"
    ),
    "periods of weeks": Messy(
        WEEKS.assign(ds=WEEKS.ds.dt.to_period("W")), WEEKS, "W-SUN"
    ),
    "periods of quarters": Messy(
        QUARTERS.assign(ds=QUARTERS.ds.dt.to_period("Q")), QUARTERS, "QS-JAN"
    ),
    "periods in parquet": Messy(
        packed(MONTHS.assign(ds=MONTHS.ds.dt.to_period("M")), "parquet"),
        MONTHS,
        "MS",
        suffix="parquet",
    ),
    "Mondays asked as Sundays": Messy(
        csv(MONDAYS), MONDAYS, mend="-p freq W-MON", said=dict(freq="W-SUN")
    ),
    "a stray day": Messy(
        csv(pd.concat([WEEKS, WEEKS[:1].assign(ds=pd.Timestamp("2024-01-10"), y=0)])),
        WEEKS,
        "W-SUN",
        mend="-p freq W-SUN -p repeated sum",
    ),
    "a date of the year 3024": Messy(
        csv(dated(WEEKS, lambda d: str(d)[:10])).replace(b"2024-02-04", b"3024-02-04"),
        None,
        mend="Mend or remove",
    ),
    # clocks
    "an hour twice": Messy(csv(BERLIN[0]), BERLIN[1], "h"),
    "an hour twice, far south": Messy(csv(SYDNEY[0]), SYDNEY[1], "h"),
    "an hour twice, two series": Messy(
        pd.concat([BERLIN[0], BERLIN[0].assign(unique_id="b")]),
        pd.concat([BERLIN[1], BERLIN[1].assign(unique_id="b")]),
        "h",
    ),
    "zoned hours": Messy(
        HOURS.assign(ds=HOURS.ds.dt.tz_localize("UTC").dt.tz_convert("Europe/Paris")),
        HOURS,
        "h",
    ),
    "zoned days": Messy(
        truth("D", first="2024-03-01", names=("a",)).assign(ds=YORK),
        truth("D", first="2024-03-01", names=("a",)),
        "D",
    ),
    "days in UTC": Messy(
        csv(
            truth("D", first="2024-03-01", names=("a",)).assign(
                ds=YORK.tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
            )
        ),
        truth("D", first="2024-03-01", names=("a",)),
        "D",
    ),
    "offsets": Messy(
        csv(dated(DAYS, lambda d: f"{d:%Y-%m-%dT%H:%M:%S}+02:00")), DAYS, "D"
    ),
    "always at half past seven": Messy(
        csv(dated(DAYS, "%Y-%m-%d 07:30:00")),
        DAYS,
        "D",
    ),
    # other kinds of file
    "packed": Messy(gzip.compress(csv(WEEKS, sep=";")), WEEKS, suffix="csv.gz"),
    "parquet": Messy(packed(WEEKS, "parquet"), WEEKS, suffix="parquet"),
    "parquet of text": Messy(
        packed(worded(dated(WEEKS, "%d.%m.%Y"), german), "parquet"),
        WEEKS,
        suffix="parquet",
    ),
    "feather": Messy(packed(WEEKS, "feather"), WEEKS, suffix="feather"),
    "parquet called csv": Messy(packed(WEEKS, "parquet"), WEEKS),
    "categories": Messy(WEEKS.astype({"unique_id": "category"}), WEEKS),
    "time in the index": Messy(WEEKS.set_index("ds"), WEEKS),
    "mixed cells": Messy(
        WEEKS.assign(y=[str(v) if i % 2 else v for i, v in enumerate(WEEKS.y)]), WEEKS
    ),
    # plans, holes, repeats
    "plan below": Messy(
        csv(planned(WEEKS)), WEEKS, said=dict(known=["price"]), check=ahead
    ),
    "plan below, decimal commas": Messy(
        csv(planned(WEEKS), sep=";", decimal=","),
        WEEKS,
        said=dict(known=["price"]),
        check=ahead,
    ),
    "plan below, holes are zero": Messy(
        csv(holes(planned(WEEKS), 3)),
        filled(WEEKS, 0, 3),
        said=dict(known=["price"], **ZERO),
        check=ahead,
    ),
    "plan below, not used": Messy(csv(planned(WEEKS)), WEEKS),
    "plan in a file": Messy(
        csv(WEEKS.assign(price=3.5)),
        WEEKS,
        said=dict(known=["price"], future=planned(WEEKS)[80:].drop(columns="y")),
        check=ahead,
    ),
    "plan of an ended series": Messy(
        csv(holes(planned(WEEKS), *range(70, 80))),
        filled(WEEKS, np.nan, *range(70, 80)),
        said=dict(known=["price"]),
        mend="-p fill missing",
        check=ahead,
    ),
    "plan of a stranger": Messy(
        csv(pd.concat([planned(WEEKS), planned(WEEKS)[80:82].assign(unique_id="x")])),
        WEEKS,
        said=dict(known=["price"]),
        check=ahead,
    ),
    "holes": Messy(
        csv(holes(WEEKS, 3, 4)), filled(WEEKS, np.nan, 3, 4), mend="-p fill missing"
    ),
    "holes are zero": Messy(
        csv(holes(WEEKS, 3, 79)), filled(WEEKS, 0, 3, 79), mend="-p fill zero"
    ),
    "n/a": Messy(
        csv(filled(WEEKS.astype({"y": object}), "n/a", 3)),
        filled(WEEKS, np.nan, 3),
        mend="-p fill missing",
    ),
    "words among numbers": Messy(
        csv(filled(WEEKS.astype({"y": object}), "sold out", 3)),
        None,
        mend="Write numbers there",
    ),
    "invoice lines": Messy(csv(SPLIT), WEEKS, mend="-p repeated sum"),
    "appended to itself": Messy(
        csv(pd.concat([WEEKS, WEEKS])), WEEKS, said=dict(repeated="first")
    ),
    "invoices by minute": Messy(
        csv(
            DAYS.assign(
                ds=DAYS.ds + pd.to_timedelta((np.arange(80) * 137) % 1400, "min")
            )
        ),
        DAYS,
        "D",
        mend="-p freq D -p repeated sum",
    ),
    "a total below": Messy(
        csv(WEEKS) + b"Total,,12345\n", None, mend="a total below the table?"
    ),
    "a broken line": Messy(csv(WEEKS) + b"x,y\n", None, mend="Mend or remove them"),
    "a column for each date": Messy(
        csv(WEEKS.pivot(index="unique_id", columns="ds", values="y").reset_index()),
        WEEKS,
        said=dict(time="date", target="value"),
    ),
    "another name": Messy(
        csv(named(WEEKS, "sku", "week", "sold")),
        WEEKS,
        mend="-p id sku -p time_column week -p target sold",
    ),
    "another name, 12/31/2024": Messy(
        csv(named(dated(DAYS, "%m/%d/%Y"), "shop", "date", "sold")),
        DAYS,
        "D",
        mend="-p id shop -p time_column date -p target sold",
    ),
    "another name, 12/31/2024 5:00 PM": Messy(
        csv(named(dated(HOURS, "%m/%d/%Y %I:%M %p"), "meter", "time", "kwh")),
        HOURS,
        "h",
        mend="-p id meter -p time_column time -p target kwh",
    ),
    **{
        f"another name, {', '.join(names)}": Messy(
            csv(named(parted(frame, *forms), "shop", "sold", *names)),
            frame,
            freq,
            mend=f"-p id shop -p time_column {','.join(names)} -p target sold",
        )
        for frame, freq, names, forms in (
            (MONTHS, "MS", ("year", "month"), ("%Y", "%m")),
            (MONTHS, "MS", ("year", "month"), ("%Y", "%B")),
            (MONTHS, "MS", ("Jahr", "Monat"), ("%Y", "%b")),
            (MONTHS, "MS", ("yr", "mon"), ("%y", "%m")),
            (QUARTERS, "QS-JAN", ("year", "quarter"), ("%Y", quarter)),
            (MONDAYS, "W-MON", ("year", "week"), ("%G", "%V")),
            (MONDAYS[:8], "W-MON", ("Jahr", "KW"), ("%G", "%V")),
            (DAYS, "D", ("year", "month", "day"), ("%Y", "%m", "%d")),
            (HOURS, "h", ("date", "hour"), ("%Y-%m-%d", "%H")),
            (HOURS, "h", ("Datum", "Uhrzeit"), ("%d.%m.%Y", "%H:%M")),
        )
    },
    "a date beside its year and month": Messy(
        csv(
            WEEKS.assign(year=WEEKS.ds.dt.year, month=WEEKS.ds.dt.month_name()).rename(
                columns=dict(unique_id="shop", ds="date", y="sold")
            )
        ),
        WEEKS,
        mend="-p id shop -p time_column date -p target sold",
    ),
    "202405 as weeks of one spring": Messy(
        csv(dated(EARLY, "%G%V").rename(columns=dict(ds="week"))),
        EARLY,
        "W-MON",
        dict(time="week"),
    ),
    "2024-05 as weeks": Messy(
        csv(dated(MONDAYS, "%G-%V").rename(columns=dict(ds="KW"))),
        MONDAYS,
        "W-MON",
        dict(time="KW"),
    ),
    "202405, weeks or months": Messy(
        csv(dated(EARLY, "%G%V")), EARLY, "W-MON", mend="-p freq W-MON"
    ),
    "202405, months or weeks": Messy(
        csv(dated(truth("MS", 9, first="2024-01-01"), "%Y%m")),
        truth("MS", 9, first="2024-01-01"),
        "MS",
        mend="-p freq MS",
    ),
    "202405 as months of one year": Messy(
        csv(
            dated(truth("MS", 9, first="2024-01-01"), "%Y%m").rename(
                columns=dict(ds="month")
            )
        ),
        truth("MS", 9, first="2024-01-01"),
        "MS",
        dict(time="month"),
    ),
    "a year beside months": Messy(
        csv(parted(MONTHS, "%Y", "%m").rename(columns=dict(part0="year", part1="mm"))),
        MONTHS,
        "MS",
        dict(time="year"),
        mend="-p time_column year,mm",
    ),
    "a workbook's days": Messy(
        csv(dated(DAYS, serial).rename(columns=dict(ds="Datum"))),
        DAYS,
        "D",
        dict(time="Datum"),
    ),
    "a workbook's days, no telling name": Messy(
        csv(dated(DAYS, serial)), DAYS, "D", dict(freq="D")
    ),
    **{
        f"{form} as a number": Messy(
            csv(dated(frame, how).rename(columns=dict(ds="date"))),
            None,
            said=dict(time="date"),
            mend="are not understood as dates",
        )
        for form, frame, how in (
            ("241231", DAYS, "%y%m%d"),
            ("31122024", DAYS, lambda d: f"{d.day}{d:%m%Y}"),
            ("20241", MONTHS, lambda d: f"{d.year}{d.month}"),
            ("122024", MONTHS, lambda d: f"{d.month}{d.year}"),
        )
    },
    "months for days where a spreadsheet could": Messy(
        csv(dated(DAYS, mangled)),
        None,
        mend="became dates, the rest stayed text",
    ),
    "another name, moments of two shops": Messy(
        csv(named(moments(DAYS), "shop", "time", "sold")),
        by_day(moments(DAYS)),
        "D",
        dict(freq="D", repeated="sum"),
        mend="-p id shop -p time_column time -p target sold",
    ),
    "another name, moments of two shops by number": Messy(
        csv(named(moments(truth("D", names=("7", "12"))), "ShopNr", "time", "sold")),
        by_day(moments(truth("D", names=("7", "12")))),
        "D",
        dict(freq="D", repeated="sum"),
        mend="-p id ShopNr -p time_column time -p target sold",
    ),
    "another name, every 37 minutes a shop": Messy(
        csv(named(moments(DAYS, "37min"), "shop", "time", "sold")),
        by_day(moments(DAYS, "37min")),
        "D",
        dict(freq="D", repeated="sum"),
        mend="-p id shop -p time_column time -p target sold",
    ),
    "every 37 minutes a shop": Messy(
        csv(moments(DAYS, "37min")),
        by_day(moments(DAYS, "37min")),
        "D",
        mend="-p freq D -p repeated sum",
    ),
    "another name, dates without a year": Messy(
        csv(named(dated(FEW, "%a %d %b"), "shop", "date", "sold")),
        None,
        mend="of the time column 'date' are no dates: Mon 01 Jan",
    ),
    "another name, a bad date among 12/31/2024": Messy(
        csv(named(dated(DAYS, "%m/%d/%Y"), "shop", "date", "sold")).replace(
            b"01/20/2024", b"02/30/2024"
        ),
        None,
        mend="1 cells of the time column 'date' are no dates: 02/30/2024.",
    ),
    "another name, no dates": Messy(
        csv(named(dated(FEW, lambda d: "soon"), "shop", "x", "sold")),
        None,
        mend="None of them reads as dates; name the one that tells the time",
    ),
}
WORDS = dict(time_column="time")


def mended(messy, words):
    "Settings with the words of a mend added, as the command line would."
    said = dict(messy.said)
    parts = shlex.split(words)
    for flag, name, value in zip(parts[::3], parts[1::3], parts[2::3]):
        assert flag == "-p"
        if name == "fill":
            said |= ZERO if value == "zero" else dict(fill=value)
        else:
            said[WORDS.get(name, name)] = value
    return said


def compared(messy, panel):
    "What is wrong with a panel; nothing where it is right."
    if messy.freq is not None and panel.freq != messy.freq:
        return f"freq {panel.freq}"
    if messy.right is not None:
        got = panel.to_frame().sort_values(["unique_id", "ds"], kind="stable")
        right = messy.right.sort_values(["unique_id", "ds"])
        names = got.unique_id.astype(str).tolist()
        order = right.assign(unique_id=right.unique_id.astype(str))
        if sorted(set(names)) != sorted(set(order.unique_id)):
            return f"names {sorted(set(names))[:3]}"
        got = got.assign(unique_id=names).sort_values(["unique_id", "ds"])
        if len(got) != len(order) or (got.ds.values != order.ds.values).any():
            return f"dates {got.ds.iloc[0]} .. {got.ds.iloc[-1]}, {len(got)} rows"
        if not np.allclose(got.y, order.y, rtol=1e-6, equal_nan=True):
            return f"targets {got.y.iloc[:3].tolist()}"
    if messy.check is not None and not messy.check(panel):
        return "not as it should be"
    return ""


def outcome(messy, folder):
    'How a file fares: "read", "refused and mended", or what went wrong.'
    source = messy.content
    if isinstance(source, bytes):
        source = folder / f"messy.{messy.suffix}"
        source.write_bytes(messy.content)
    try:
        panel = understand(source, Settings(**messy.said)).panel("command")
        if messy.mend:
            return "WRONG: read without a word"
        wrong = compared(messy, panel)
        return f"WRONG: {wrong}" if wrong else "read"
    except LabError as e:
        refusal = str(e)
    if not messy.mend or messy.mend not in refusal:
        return f"WRONG: {refusal}"
    if not messy.mend.startswith("-p"):
        return "refused in words"
    try:
        said = mended(messy, messy.mend)
        wrong = compared(messy, understand(source, Settings(**said)).panel("command"))
    except LabError as e:
        wrong = f"after the mend: {e}"
    return f"WRONG: {wrong}" if wrong else "refused and mended"
