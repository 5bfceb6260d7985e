// The page that looks into a prompt: puts the view that its controls or its address name into its two charts. A view that the page
// does not hold comes with the address, deflated (nbhelpers/run/explorer/address.py).
(() => {
  const form = document.getElementById("explore");
  const { all: charts, choose, fill } = window.bookCharts ?? {};
  if (!form || !charts) return;
  const held = JSON.parse(document.getElementById("explore-data").textContent);
  const said = document.getElementById("explore-said");
  const texts = document.getElementById("explore-texts");
  const NAMES = ["pair", "prompt", "history", "lens", "measure", "token", "layer"];
  const LISTS = ["top1", "top1_probability", "entropy", "kl_final_layer"];
  const EDITS = ["window", "host", "alpha"]; // of a view that came with the address
  let carried = null; // that view, its letters and its edits
  let warning = ""; // what is wrong with the address
  let shown = ""; // the view that the charts hold

  const value = (name) => form.elements[name].value;
  const address = () => new URLSearchParams(location.hash.replace(/^#/, ""));

  function element(tag, text) {
    return Object.assign(document.createElement(tag), { textContent: text });
  }

  // Returns a view as rows of the charts: one for each arm, lens and layer (`pictures.rows`).
  function rows(view) {
    const column = view.tokens.map((word, i) => `${i} ${word}`);
    return Object.entries(view.whos).flatMap(([who, lenses]) => Object.entries(lenses).flatMap(([lens, values]) =>
      values.top1.map((_, layer) => ({
        who, lens, layer, token: column.map((_, i) => i), column,
        ...Object.fromEntries(LISTS.map((name) => [name, values[name][layer]])),
      }))));
  }

  async function unpacked(letters) {
    const bytes = Uint8Array.from(atob(letters.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  // Only the prompts that the page holds of a pair can be chosen.
  function offer() {
    for (const option of form.elements.prompt.options) {
      option.hidden = option.disabled = !(option.value === "typed" ? carried : held.views[`${value("pair")}/${option.value}/it`]);
    }
    const now = form.elements.prompt.selectedOptions[0];
    if (!now || now.disabled) form.elements.prompt.value = [...form.elements.prompt.options].find((option) => !option.disabled)?.value ?? "";
  }

  function current() {
    if (value("prompt") === "typed") return carried?.view;
    return held.views[`${value("pair")}/${value("prompt")}/${value("history")}`];
  }

  function limit(name, most) {
    const slider = form.elements[name];
    slider.max = most;
    slider.value = Math.min(Number(slider.value), most);
  }

  function describe(view) {
    const [layer, token, lens] = [Number(value("layer")), Number(value("token")), value("lens")];
    const parts = Object.entries(view.whos).map(([who, lenses]) => {
      const here = Object.fromEntries(LISTS.map((name) => [name, lenses[lens][name][layer][token]]));
      return `${who} says “${here.top1}” (p ${here.top1_probability.toFixed(2)}, entropy ${here.entropy.toFixed(2)} nats, `
        + `KL to its last layer ${here.kl_final_layer.toFixed(2)} nats)`;
    });
    return `Layer ${layer}, ${lens} lens, where “${view.tokens[token]}” stands: ${parts.join("; ")}.`;
  }

  function show() {
    offer();
    const view = current();
    if (!view) return;
    const lenses = Object.keys(Object.values(view.whos)[0]);
    for (const option of form.elements.lens.options) option.disabled = !lenses.includes(option.value);
    if (!lenses.includes(value("lens"))) form.elements.lens.value = lenses[0];
    limit("token", view.tokens.length - 1);
    limit("layer", Object.values(view.whos)[0][lenses[0]].top1.length - 1);
    for (const name of ["token", "layer"]) form.querySelector(`output[for=${name}]`).value = value(name);
    const key = value("prompt") === "typed" ? carried.letters : ["pair", "prompt", "history"].map(value).join("/");
    for (const chart of charts) {
      for (const name of ["lens", "measure"]) choose(chart, name, value(name));
      for (const name of ["token", "layer"]) choose(chart, `at_${name}`, Number(value(name)));
      choose(chart, "whos", Object.keys(view.whos));
      if (key !== shown) fill(chart, rows(view));
    }
    shown = key;
    said.textContent = warning + describe(view);
    texts.replaceChildren(element("dt", "Prompt"), element("dd", view.message ?? ""),
      ...Object.entries(view.texts ?? {}).flatMap(([who, text]) => [element("dt", who), element("dd", text.trim() || "(nothing)")]));
  }

  function remember() {
    const state = new URLSearchParams(NAMES.map((name) => [name, value(name)]));
    if (value("prompt") === "typed") for (const [name, text] of [...carried.edits, ["data", carried.letters]]) state.set(name, text);
    history.replaceState(null, "", `#${state}`);
  }

  // Takes what the address names; what it does not name, or names wrongly, stays.
  async function open() {
    const given = address();
    warning = "";
    if (given.get("data")) {
      show(); // what the page holds, while the numbers are unpacked: a chart without rows cannot be drawn
      const view = await unpacked(given.get("data")).catch(() => null);
      if (view) {
        carried = { view, letters: given.get("data"), edits: EDITS.filter((name) => given.has(name)).map((name) => [name, given.get(name)]) };
        const list = form.elements.prompt;
        const option = [...list.options].find((one) => one.value === "typed") ?? list.appendChild(new Option("", "typed"));
        option.text = view.message ?? "typed";
        given.set("prompt", "typed");
      }
      warning = view ? "" : "The numbers in this address are damaged, so another view is shown: copy the whole address again. ";
    }
    for (const name of NAMES) {
      const control = form.elements[name];
      const known = control.options ? [...control.options].some((option) => option.value === given.get(name)) : given.has(name);
      if (control.type === "range" && known) control.max = Math.max(control.max, given.get(name));
      if (known) control.value = given.get(name);
    }
    show();
  }

  form.addEventListener("input", () => { warning = ""; show(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", open);
  // A click on a cell of either chart chooses it.
  for (const chart of charts) {
    chart.place.addEventListener("click", (event) => {
      const datum = event.target.__data__?.datum;
      if (datum?.token === undefined) return;
      form.elements.token.value = datum.token;
      form.elements.layer.value = datum.layer;
      show();
      remember();
    });
  }
  open();
})();
