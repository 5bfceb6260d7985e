// Draws each chart of a page from the specification beside it, to the width and the colours of the page.
(() => {
  const WIDEST = 480;
  const NARROWEST = 165; // the narrowest panel before a column is given up, its axis included
  // The theme's greys and the two variants, as the specification has them, and as they read on each background.
  const COLOURS = {
    light: { "#7a7a7a": "#4d4d4d" },
    dark: { "#7a7a7a": "#c4c9d1", "#2b7bba": "#62a8e5", "#d95f02": "#f4873a" },
  };
  const page = document.documentElement;
  const mode = () => (page.dataset.theme === "dark" ? "dark" : "light");

  function coloured(text) {
    for (const [from, to] of Object.entries(COLOURS[mode()])) text = text.replaceAll(from, to);
    return JSON.parse(text);
  }

  // A chart that is drawn anew, for another width or theme, shows what its reader had chosen.
  const views = new WeakMap();

  async function embed(canvas, spec) {
    const options = { actions: false, renderer: "svg", tooltip: { theme: mode() } };
    const before = views.get(canvas);
    if (before) for (const param of spec.params ?? []) param.value = before.signal(param.name);
    views.set(canvas, (await vegaEmbed(canvas, spec, options)).view);
    return canvas.querySelector("svg").getBoundingClientRect().width;
  }

  // Charts of several panels get as many columns as fit; then the panels share the width that axes leave over.
  async function draw(place, canvas, text) {
    const available = place.clientWidth;
    if (!available) return; // inside a closed tab: drawn when it opens
    delete place.dataset.drawn;
    const spec = coloured(text);
    const panel = spec.facet ? spec.spec : spec;
    const columns = Math.min(spec.columns ?? 1, Math.max(1, Math.floor(available / (NARROWEST + 40))));
    if (spec.columns) spec.columns = columns;
    // A first drawing, too wide, tells what the axes take.
    panel.width = Math.floor(available / columns);
    const axes = (await embed(canvas, spec)) - panel.width * columns;
    panel.width = Math.max(80, Math.min(Math.floor((available - axes) / columns), WIDEST));
    await embed(canvas, spec);
    place.dataset.drawn = "yes";
  }

  for (const place of document.querySelectorAll("div.vegalite")) {
    const text = place.querySelector("script").textContent;
    const canvas = place.appendChild(document.createElement("div"));
    let last = Promise.resolve();
    let seen = "";
    const update = () => {
      const now = `${place.clientWidth} ${mode()}`;
      if (now === seen) return;
      seen = now;
      last = last.then(() => draw(place, canvas, text)); // one drawing at a time
    };
    new ResizeObserver(update).observe(place);
    new MutationObserver(update).observe(page, { attributeFilter: ["data-theme"] });
  }
})();
