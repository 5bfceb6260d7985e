// Filters the table of all claims. Without this script every row is there to be read; with it, figures are closed below their
// claim until they are asked for, by the filter, a claim's button or a link to the claim.
(() => {
  const table = document.getElementById("ledger-table");
  const form = document.querySelector(".ledger-filter");
  const words = document.getElementById("ledger-words");
  const count = document.getElementById("ledger-count");
  const all = document.getElementById("ledger-all");
  if (!table || !form) return;
  const MOST = 60; // figures that a filter opens by itself

  const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f\u00ad]/g, "").replaceAll("−", "-").replace(/\s+/g, " ");
  const claims = [...table.tBodies].map((body) => {
    const [head, ...rows] = body.rows;
    const text = plain(head.textContent);
    const figures = rows.map((row) => ({ row, text: `${text} ${plain(row.textContent)}` }));
    return { body, text, figures, button: toggle(body, head, rows.length), open: false, shown: true };
  });
  const total = claims.reduce((sum, claim) => sum + claim.figures.length, 0);

  function toggle(body, head, n) {
    if (!n) return null;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "figures";
    button.textContent = `${n} figure${n > 1 ? "s" : ""}`;
    button.setAttribute("aria-label", `${button.textContent} of ${body.id}`);
    button.addEventListener("click", () => {
      const claim = claims.find((one) => one.body === body);
      claim.open = button.getAttribute("aria-expanded") !== "true";
      draw();
    });
    head.cells[0].append(button);
    return button;
  }

  // What is asked for: all words, or the id of one claim.
  let wanted = [];
  let whole = false;
  let paper = false;

  function draw() {
    const hits = claims.map((claim) =>
      wanted.length ? claim.figures.filter((one) => wanted.every((word) => one.text.includes(word))) : claim.figures);
    const found = claims.map((claim, i) => hits[i].length || !wanted.length || wanted.every((word) => claim.text.includes(word)));
    const n = hits.reduce((sum, of) => sum + of.length, 0);
    const few = wanted.length > 0 && n <= MOST;
    claims.forEach((claim, i) => {
      hide(claim.body, !found[i] && !paper);
      if (!found[i] && !paper) return;
      const open = claim.open || few || whole;
      const shown = new Set(paper ? claim.figures : open ? hits[i] : []);
      for (const one of claim.figures) hide(one.row, !shown.has(one));
      claim.button?.setAttribute("aria-expanded", String(open));
    });
    const kept = found.filter(Boolean).length;
    count.textContent = wanted.length
      ? `${kept} of ${claims.length} claims, ${n} of ${total} figures`
      : `${claims.length} claims, ${total} figures`;
  }

  function hide(place, hidden) {
    if (place.hidden !== hidden) place.hidden = hidden;
  }

  words.addEventListener("input", () => {
    wanted = plain(words.value).split(" ").filter(Boolean);
    draw();
  });
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
    if (event.key !== "Escape" || !words.value) return;
    words.value = "";
    words.dispatchEvent(new Event("input"));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  all.addEventListener("click", () => {
    whole = !whole;
    claims.forEach((claim) => (claim.open = false));
    all.setAttribute("aria-pressed", String(whole));
    all.textContent = whole ? "Close all figures" : "Show all figures";
    draw();
  });

  // A link to a claim opens it, whatever the filter hides.
  function linked() {
    const claim = claims.find((one) => one.body.id === decodeURIComponent(location.hash.slice(1)));
    if (!claim) return;
    if (claim.body.hidden) {
      words.value = "";
      wanted = [];
    }
    claim.open = true;
    draw();
    claim.body.scrollIntoView();
  }
  addEventListener("hashchange", linked);
  addEventListener("beforeprint", () => ((paper = true), draw()));
  addEventListener("afterprint", () => ((paper = false), draw()));

  form.hidden = false;
  draw();
  linked();
})();
