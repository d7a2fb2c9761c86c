// What a page does for its reader, whichever program wrote it.
(() => {
  "use strict";
  const all = (css) => [...document.querySelectorAll(css)];

  // The sidebar shows where we are: its active entry stands in its middle.
  const sidebar = document.querySelector("#quarto-sidebar");
  const find = () => {
    const here = sidebar && sidebar.querySelector(".sidebar-link.active");
    if (!here || sidebar.scrollHeight <= sidebar.clientHeight) return;
    const below =
      here.getBoundingClientRect().bottom - sidebar.getBoundingClientRect().top;
    if (below > sidebar.clientHeight)
      sidebar.scrollTop += below - sidebar.clientHeight / 2;
  };

  // What scrolls sideways is reached by the keyboard, and only while it does.
  const boxes =
    ".cell-output-display, .sd-table, .table-scroll, main pre, div.sourceCode, .equation, .picture";
  const reach = () => {
    for (const box of all(boxes)) {
      const style = getComputedStyle(box);
      const rolls = /auto|scroll/.test(style.overflowX + style.overflowY);
      const wide = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
      if (rolls && wide) box.tabIndex = 0;
      else if (box.tabIndex === 0 && !box.matches("a, button")) box.removeAttribute("tabindex");
    }
  };

  // A heading that folds its section answers Enter and the space bar, as a button does.
  for (const fold of all("#quarto-sidebar [data-bs-toggle=collapse][role=button]"))
    fold.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      fold.click();
    });

  // The drawer of a phone takes the focus when it opens; Escape closes it and gives the
  // focus back.
  const opener = document.querySelector(".quarto-btn-toggle");
  if (sidebar && opener) {
    const drawer = () => opener.offsetParent && sidebar.classList.contains("show");
    let open = false;
    opener.setAttribute("aria-expanded", "false");
    const follow = () => {
      if (open === Boolean(drawer())) return;
      open = !open;
      opener.setAttribute("aria-expanded", String(open));
      const entry =
        sidebar.querySelector(".sidebar-link.active") || sidebar.querySelector("a[href]");
      if (!open || !entry) return;
      find();
      entry.focus({ preventScroll: true });
    };
    new MutationObserver(follow).observe(sidebar, { attributeFilter: ["class"] });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !drawer()) return;
      opener.click();
      opener.focus();
    });
  }

  // The search puts what answers first: jobs and studies, then pages, then sections, and
  // signatures last. Both renderers ask Fuse, which knows likeness only; what it finds
  // besides (a word that is misspelt) follows.
  const factor = (entry, query) => {
    const signature = /^(@property )?(def|class) |^source\b/.test(entry.text || "");
    // whoever types a whole name wants that name
    const named = String(entry.section).toLowerCase() === query;
    if (signature) return named ? 1 : 0.35;
    if (/(^|\/)pipelines\/(bench_|embedded_)/.test(entry.href)) return 0.6;
    if (/(^|\/)pipelines\//.test(entry.href)) return 1.7;
    if (/(^|\/)studies\//.test(entry.href)) return 1.5;
    return /(^|\/)(index|install)\.html/.test(entry.href) ? 1.2 : 1;
  };
  const begins = (text, word) => new RegExp(`(^|[^a-z0-9])${word}`).test(text);
  const points = (entry, words) => {
    const [title, section, text] = [entry.title, entry.section, entry.text].map((part) =>
      String(part || "").toLowerCase(),
    );
    const phrase = words.join(" ");
    let sum = 0;
    let missed = 0;
    for (const word of words) {
      let here = begins(title, word) ? 6 : 0;
      if (begins(section, word)) here += 4;
      const often = text.split(word).length - 1;
      if (often) here += 1 + Math.min(2, Math.log2(often));
      if (!here) missed += 1;
      sum += here;
    }
    if (missed === words.length) return 0;
    if (words.length > 1)
      sum += 6 * title.includes(phrase) + 4 * section.includes(phrase) + 3 * text.includes(phrase);
    if (!section) sum += title === phrase ? 12 : 5;
    return sum * factor(entry, phrase) * 0.25 ** missed;
  };
  const found = (entries, query) => {
    const words = query.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [];
    const hits = entries
      .map((item, refIndex) => ({ item, refIndex, score: points(item, words) }))
      .filter((hit) => hit.score > 0)
      .sort((a, b) => b.score - a.score);
    // a page is there with its best places, and leaves room for others
    const most = {};
    return hits.filter(({ item }) => {
      const page = item.href.split("#")[0];
      most[page] = (most[page] || 0) + 1;
      return most[page] <= 3;
    });
  };
  const order = () => {
    const Fuse = window.Fuse;
    if (!Fuse || Fuse.prototype.likeness) return;
    Fuse.prototype.likeness = Fuse.prototype.search;
    Fuse.prototype.search = function (query, options = {}) {
      const limit = options.limit > 0 ? options.limit : 20;
      if (typeof query !== "string" || !this._docs) return this.likeness(query, options);
      const first = found(this._docs, query);
      if (first.length >= limit) return first.slice(0, limit);
      const known = new Set(first.map(({ item }) => item.href));
      const more = this.likeness(query, { ...options, limit: limit + known.size });
      return [...first, ...more.filter(({ item }) => !known.has(item.href))].slice(0, limit);
    };
  };
  order();
  addEventListener("DOMContentLoaded", order);

  find();
  reach();
  addEventListener("resize", reach);
  addEventListener("load", () => {
    find();
    reach();
  });
})();
