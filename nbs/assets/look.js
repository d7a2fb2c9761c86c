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
  const boxes = ".cell-output-display, .sd-table, .table-scroll, main pre, div.sourceCode, math[display=block]";
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

  find();
  reach();
  addEventListener("resize", reach);
  addEventListener("load", () => {
    find();
    reach();
  });
})();
