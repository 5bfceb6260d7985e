// Draws each chart of a page from the specification beside it, to the width and colours of the page, those near the reader first;
// offers its choices and its data. The choice of a lens is one for the page, remembered, and part of its address.
(() => {
  const WIDEST = 480;
  const LETTER = 6.5; // px that a letter of an axis title takes, about
  const BOLD = 8.3; // and one of a chart's own title
  const AXIS = 90; // px that labels and title of a y axis take, about
  const NARROWEST = 165; // the narrowest panel before a column is given up, its axis included
  const NEAR = "900px"; // how far from the window a chart is drawn before others
  const LENS = "shown_lens";
  const SHOWN_ROWS = 200; // of a chart's data; the file has all
  // What replaces a specification's colours on each background: `THEMES` of nbhelpers/report/theme.py.
  const COLOURS = {
    light: { "#7a7a7a": "#4d4d4d" },
    dark: {
      "#7a7a7a": "#c4c9d1", "#2b7bba": "#62a8e5", "#d95f02": "#f4873a",
      "#259365": "#2ea878", "#cc35aa": "#e85fc9", "#a39300": "#c4a82a", "#1a1a1a": "#f2f2f2",
      "#a086d6": "#7d5fc0", "#7044ba": "#b19ae8", "#371575": "#f0eaff", "#d4d4d4": "#3d434c",
    },
  };
  const page = document.documentElement;
  const mode = () => (page.dataset.theme === "dark" ? "dark" : "light");

  function coloured(text) {
    for (const [from, to] of Object.entries(COLOURS[mode()])) text = text.replaceAll(from, to);
    return JSON.parse(text);
  }

  function element(tag, attributes = {}, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  }

  // ---- choices -----------------------------------------------------------------------------------------------------------

  let groups = 0;

  // Returns a labelled group of buttons for up to four options, else a list; `onchange` takes the chosen option.
  function choice(legend, options, labels, value, onchange) {
    const name = `choice-${(groups += 1)}`;
    const label = (option, i) => String(labels?.[i] ?? option);
    const few = options.map((option, i) => {
      const input = element("input", { type: "radio", name, checked: option === value });
      input.addEventListener("change", () => onchange(option));
      return element("label", {}, input, ` ${label(option, i)}`);
    });
    const many = () => {
      const list = element("select", {}, ...options.map((option, i) => element("option", { selected: option === value }, label(option, i))));
      list.setAttribute("aria-label", legend);
      list.addEventListener("change", () => onchange(options[list.selectedIndex]));
      return [list];
    };
    return element("fieldset", { className: "choice" }, element("legend", {}, legend), ...(options.length < 5 ? few : many()));
  }

  // ---- one chart ---------------------------------------------------------------------------------------------------------

  function distinct(spec, field) {
    return new Set(Object.values(spec.datasets ?? {}).flat().map((row) => row[field])).size;
  }

  // Returns how many panels stand side by side, and whether rows of them may break.
  function columnsOf(spec, available) {
    if (spec.facet?.column) return distinct(spec, spec.facet.column.field) || 1;
    const fits = Math.max(1, Math.floor(available / (NARROWEST + 40)));
    return spec.facet?.field ? Math.min(spec.columns ?? distinct(spec, spec.facet.field), fits) : 1;
  }

  function chartOf(place) {
    const text = place.querySelector("script").textContent;
    const spec = JSON.parse(text);
    const controls = (spec.params ?? []).filter((param) => param.bind?.options);
    const chart = { place, text, spec, controls, canvas: element("div"), chosen: {}, near: false, seen: "", view: null };
    place.append(chart.canvas);
    const own = controls.filter((param) => param.name !== LENS);
    if (own.length) place.append(element("div", { className: "choices" }, ...own.map((param) => choice(
      (param.bind.name ?? param.name).trim(), param.bind.options, param.bind.labels, param.value,
      (value) => choose(chart, param.name, value),
    ))));
    return chart;
  }

  function choose(chart, name, value) {
    chart.chosen[name] = value;
    if (chart.view) chart.view.signal(name, value).runAsync();
  }

  // Returns the width for a chart, px; inside what is closed, that of the nearest place that has one.
  function room(chart) {
    let node = chart.place;
    while (node.parentElement && !node.clientWidth) node = node.parentElement;
    return node === chart.place ? node.clientWidth : Math.max(NARROWEST, node.clientWidth - 24);
  }

  // Breaks the titles of x axes into lines of so many letters, anywhere in a specification.
  function breakTitles(node, letters) {
    for (const [key, value] of Object.entries(node ?? {})) {
      if (key === "datasets" || typeof value !== "object") continue;
      if (key === "x" && value?.title) value.title = lines([value.title].flat().join(" "), letters);
      breakTitles(value, letters);
    }
  }

  // Breaks the title of a chart into lines that fit a width, px.
  function breakTitle(spec, available) {
    const text = [spec.title?.text ?? spec.title].flat();
    const letters = available / BOLD;
    if (!text.some((line) => line?.length > letters)) return;
    spec.title = { ...(spec.title.text ? spec.title : {}), text: lines(text.join(" "), letters) };
  }

  function lines(text, letters) {
    return text.split(" ").reduce((found, word) => {
      const last = found.at(-1);
      if (last && last.length + 1 + word.length <= letters) found[found.length - 1] = `${last} ${word}`;
      else found.push(word);
      return found;
    }, []);
  }

  // Gives no legend of a specification more columns.
  function narrowLegends(node, columns) {
    for (const [key, value] of Object.entries(node ?? {})) {
      if (key === "datasets" || typeof value !== "object") continue;
      if (key === "legend" && value?.columns > columns) value.columns = columns;
      narrowLegends(value, columns);
    }
  }

  // Makes a chart that does not fit need less: breaks titles of axes into lines as wide as a panel, then sets legends one below
  // the other, in that many columns, and the names of panels in smaller letters.
  function tighten(spec, width, columns) {
    breakTitles(spec, width / LETTER);
    if (!columns) return;
    narrowLegends(spec, columns);
    const { legend, header } = (spec.config ??= {});
    const below = { top: { direction: "vertical", anchor: "start" } };
    Object.assign(spec.config, { legend: { ...legend, columns, layout: below }, header: { ...header, labelFontSize: 10 } });
  }

  // Lays a chart out without an image, which tells what its axes take, and narrows its panels until it fits; what does not fit so
  // is tightened, more each time. Returns the view.
  async function layOut(canvas, spec, available) {
    const columns = columnsOf(spec, available);
    breakTitle(spec, available);
    if (spec.facet?.field) spec.columns = columns;
    const panel = spec.facet ? spec.spec : spec;
    const flexible = !spec.concat && !spec.hconcat && !spec.vconcat && typeof panel.width !== "object";
    const embed = async () => (await vegaEmbed(canvas, spec, { actions: false, renderer: "none", tooltip: { theme: mode() } })).view;
    const wide = (view) => view.scenegraph().root.bounds.width() + view.padding().left + view.padding().right;
    for (const legendColumns of [0, 2, 1, null]) {
      let width = Math.min(WIDEST, Math.floor(available / columns));
      if (flexible) panel.width = width;
      const view = await embed();
      if (!flexible) return view;
      for (let step = 0; step < 3; step += 1) {
        const over = wide(view) - available;
        if (over <= 0 && step) return view;
        width = Math.max(80, Math.min(Math.floor(width - over / columns) - 1, WIDEST));
        await view.signal(spec.facet ? "child_width" : "width", width).resize().runAsync();
      }
      if (legendColumns === null || wide(view) <= available) return view;
      view.finalize();
      tighten(spec, legendColumns ? available / columns - AXIS : width, legendColumns);
    }
  }

  async function draw(chart) {
    const { place, canvas } = chart;
    const available = room(chart);
    const spec = coloured(chart.text);
    for (const param of spec.params ?? []) {
      if (param.bind?.options) delete param.bind;
      if (param.name in chart.chosen) param.value = chart.chosen[param.name];
    }
    chart.view?.finalize();
    const view = await layOut(canvas, spec, available);
    await view.renderer("svg").initialize(canvas).resize().runAsync();
    chart.view = view;
    place.style.minHeight = "";
    place.dispatchEvent(new Event("scroll")); // page.js then looks whether it goes on at a side
    place.dataset.drawn = Math.ceil(performance.now()); // ms since the page was asked for
  }

  // A chart that is not drawn yet keeps about its height, so that a link into the page lands where it should.
  function reserve(chart) {
    const { spec, place } = chart;
    const panel = spec.facet ? spec.spec : spec;
    if (typeof panel.height !== "number" || !place.clientWidth) return;
    const columns = columnsOf(spec, place.clientWidth);
    const count = spec.facet?.field ? distinct(spec, spec.facet.field) : columns;
    place.style.minHeight = `${Math.ceil(count / columns) * (panel.height + 55) + 60}px`;
  }

  let last = Promise.resolve(); // one drawing at a time
  function update(chart) {
    const now = `${room(chart)} ${mode()}`;
    if (!chart.near || now === chart.seen) return;
    chart.seen = now;
    delete chart.place.dataset.drawn;
    last = last.then(() => draw(chart)).catch(console.error);
  }

  // ---- the data behind a chart -------------------------------------------------------------------------------------------

  // Returns rows with lists taken apart: one row for each entry.
  function flat(rows) {
    return rows.flatMap((row) => {
      const lists = Object.keys(row).filter((name) => Array.isArray(row[name]));
      if (!lists.length) return [row];
      return row[lists[0]].map((_, i) => ({ ...row, ...Object.fromEntries(lists.map((name) => [name, row[name][i]])) }));
    });
  }

  function table(names, rows) {
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const body = rows.map((row) => element("tr", {}, ...names.map((name) => element("td", {}, String(row[name] ?? "")))));
    const box = element("div", { className: "wide-table", tabIndex: 0 },
      element("table", { className: "dataframe" }, element("thead", {}, head), element("tbody", {}, ...body)));
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Data of the chart");
    return box;
  }

  function quoted(value) {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function showData(chart, details) {
    if (details.childElementCount > 1) return;
    const file = `${location.pathname.split("/").pop().replace(".html", "")}-${details.closest("figure").id}`;
    Object.values(chart.spec.datasets ?? {}).forEach((packed, i) => {
      const rows = flat(packed);
      const names = [...new Set(rows.flatMap(Object.keys))];
      const csv = [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(quoted).join(",")).join("\n");
      const href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
      const link = element("a", { href, download: `${file}${i ? `-${i + 1}` : ""}.csv` }, "all as CSV");
      const some = rows.length > SHOWN_ROWS ? `the first ${SHOWN_ROWS} of ${rows.length} rows; ` : "";
      details.append(element("p", {}, some, link), table(names, rows.slice(0, SHOWN_ROWS)));
    });
  }

  // ---- the page ----------------------------------------------------------------------------------------------------------

  const charts = [...document.querySelectorAll("div.vegalite")].map(chartOf);
  // Returns the parts of an address such as #main-figure&lens=tuned.
  const address = () => new URLSearchParams(location.hash.replace(/^#/, "").replace(/^([^=&]+)(&|$)/, "anchor=$1&"));

  function remember(lens) {
    try { localStorage.setItem("lens", lens); } catch { /* a browser may forbid it */ }
    const anchor = address().get("anchor");
    history.replaceState(null, "", `#${anchor ? `${anchor}&` : ""}lens=${lens}`);
  }

  function remembered() {
    try { return localStorage.getItem("lens"); } catch { return null; }
  }

  // One choice of the lens for the page, above the first chart that has one.
  function lensSwitch() {
    const bound = charts.filter((chart) => chart.controls.some((param) => param.name === LENS));
    if (!bound.length) return;
    const paramOf = (chart) => chart.controls.find((param) => param.name === LENS);
    const options = [...new Set(bound.flatMap((chart) => paramOf(chart).bind.options))];
    const labels = options.map((option) => {
      const { bind } = paramOf(bound.find((chart) => paramOf(chart).bind.options.includes(option)));
      return bind.labels?.[bind.options.indexOf(option)] ?? option;
    });
    // A page of one experiment opens with its first chart's lens. On a page of several each chart keeps that of its own text
    // until the reader chooses.
    const values = bound.map((chart) => paramOf(chart).value);
    const own = location.pathname.includes("/runs/") || new Set(values).size === 1 ? values[0] : null;
    const first = [address().get("lens"), remembered(), own].find((lens) => options.includes(lens));
    const set = (lens) => bound.forEach((chart) => {
      if (paramOf(chart).bind.options.includes(lens)) choose(chart, LENS, lens);
    });
    if (first) set(first);
    const bar = element("div", { className: "lens-switch" },
      choice("Lens of all charts here", options, labels, first, (lens) => { set(lens); remember(lens); }));
    const home = element("div", { className: "lens-home" }, bar);
    const figure = bound[0].place.closest("figure");
    (figure.closest(".cell") ?? figure).before(home);
    home.style.height = `${bar.offsetHeight}px`;
    // Once its place is above the window, the choice stays at the window's top while a chart that it changes is in sight.
    const sight = new Set();
    let above = false;
    const float = () => bar.classList.toggle("floating", above && sight.size > 0);
    new IntersectionObserver(([entry]) => {
      above = !entry.isIntersecting && entry.boundingClientRect.top < 60;
      float();
    }, { rootMargin: "-60px 0px 0px" }).observe(home);
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.isIntersecting ? sight.add(entry.target) : sight.delete(entry.target);
      float();
    });
    bound.forEach((chart) => watch.observe(chart.place));
  }

  // For a page with controls of its own (explore.js): draws a chart anew from other rows.
  function fill(chart, rows) {
    chart.spec.datasets = { ...chart.spec.datasets, cells: rows };
    const spec = JSON.parse(chart.text);
    chart.text = JSON.stringify({ ...spec, datasets: chart.spec.datasets });
    chart.seen = "";
    const details = chart.place.parentElement.querySelector("details.chart-data");
    while (details?.childElementCount > 1) details.lastElementChild.remove();
    if (details) details.open = false;
    update(chart);
  }
  window.bookCharts = { all: charts, choose, fill };

  lensSwitch();
  charts.forEach(reserve);
  if (address().get("lens")) document.getElementById(address().get("anchor"))?.scrollIntoView();

  const byPlace = new Map(charts.map((chart) => [chart.place, chart]));
  const nearby = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = byPlace.get(entry.target);
      chart.near ||= entry.isIntersecting;
      update(chart);
    }
  }, { rootMargin: NEAR });
  const resized = new ResizeObserver((entries) => entries.forEach((entry) => update(byPlace.get(entry.target))));
  for (const chart of charts) {
    nearby.observe(chart.place);
    resized.observe(chart.place);
    const details = chart.place.parentElement.querySelector("details.chart-data");
    details?.addEventListener("toggle", () => showData(chart, details));
    // By keyboard a chart is its numbers: Enter on the chart opens them.
    chart.place.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target !== chart.place || !details) return;
      event.preventDefault(); // else the key would close what it has opened
      details.open = true;
      details.querySelector("summary").focus();
    });
  }
  new MutationObserver(() => charts.forEach(update)).observe(page, { attributeFilter: ["data-theme"] });

  // What is far away or closed is drawn when there is nothing else to do: paper, which does not wait, then has every chart.
  const idle = window.requestIdleCallback ?? ((action) => setTimeout(action, 200));
  function rest() {
    const next = charts.find((chart) => !chart.near);
    if (!next) return;
    next.near = true;
    update(next);
    last.then(() => idle(rest));
  }
  addEventListener("load", () => idle(rest));
})();
