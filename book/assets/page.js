// Shows the definition of an explained word where the pointer rests or the focus is; lets the theme's own tables be reached by
// keyboard; says on which side a table, a formula or a chart goes on; opens what a link leads to and, for print, what is closed.
(() => {
  let tip = null;

  function show(word) {
    hide();
    tip = Object.assign(document.createElement("div"), { className: "tip", textContent: word.dataset.tip });
    document.body.append(tip);
    const { left, top, bottom } = word.getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(12, Math.min(left, innerWidth - width - 12))}px`;
    tip.style.top = `${bottom + height + 8 < innerHeight ? bottom + 6 : Math.max(6, top - height - 6)}px`;
  }

  function hide() {
    tip?.remove();
    tip = null;
  }

  for (const word of document.querySelectorAll("a.term")) {
    word.addEventListener("pointerenter", () => show(word));
    word.addEventListener("focus", () => show(word));
    for (const end of ["pointerleave", "blur"]) word.addEventListener(end, hide);
  }
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", hide, { passive: true });

  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table: ${box.closest("section")?.querySelector("h1, h2, h3")?.firstChild?.textContent ?? "results"}`);
  }

  function more(box) {
    const left = box.scrollLeft > 2;
    const right = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
    box.dataset.more = left && right ? "both" : left ? "left" : right ? "right" : "none";
  }
  for (const box of document.querySelectorAll(".wide-table, .pst-scrollable-table-container, div.math, div.vegalite")) {
    box.addEventListener("scroll", () => more(box), { passive: true });
    new ResizeObserver(() => more(box)).observe(box);
  }

  // A link to a closed part opens it: what it stands in, and the cell itself.
  function open() {
    const name = decodeURIComponent(location.hash.slice(1).split("&")[0]);
    const place = name && document.getElementById(name);
    if (!place) return;
    const closed = [...place.querySelectorAll(":scope > details")];
    for (let part = place; part; part = part.parentElement) if (part.tagName === "DETAILS") closed.push(part);
    const any = closed.filter((details) => !details.open);
    any.forEach((details) => (details.open = true));
    if (any.length) place.scrollIntoView();
  }
  addEventListener("hashchange", open);
  open();

  // Paper has nothing to open.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("article details:not([open]):not(.chart-data)")];
    opened.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
})();
