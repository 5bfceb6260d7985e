// The clickable grid of the explorer: a table of layers and tokens for each model, whose cells hold the top-1 token and are filled
// the more, the larger the measure. A click, or the arrow keys and Enter, chooses a cell.
const STYLE = `
.explore-grid { display: flex; flex-wrap: wrap; gap: 0 2em; overflow-x: auto; font-size: 11px; color: inherit; }
.explore-grid table { border-collapse: collapse; table-layout: fixed; width: max-content; margin: 0 0 0.8em; }
.explore-grid caption { text-align: left; font-weight: 600; font-size: 13px; }
.explore-grid th, .explore-grid td { width: 4.4em; box-sizing: border-box; padding: 1px 3px; font-weight: normal; text-align: center;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.explore-grid td { height: 1.5em; cursor: pointer; }
.explore-grid tr > :first-child { width: 3.4em; text-align: right; }
.explore-grid td[aria-selected="true"] { outline: 2px solid currentColor; outline-offset: -2px; }
.explore-grid td:focus-visible { outline: 2px dashed #d95f02; outline-offset: -2px; }`;
const FILL = [122, 91, 181]; // cells of a matrix, on any page
const MOST_FILL = 0.55;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const root = element("div", { class: "explore-grid" });
  el.append(element("style", {}, STYLE), root);

  function table(panel, tokens, most) {
    const head = element("tr", {}, element("th", { scope: "col" }, "layer"), ...tokens.map((word) => element("th", { scope: "col", title: word }, word)));
    const body = panel.words.map((words, layer) => element("tr", {}, element("th", { scope: "row" }, String(layer)),
      ...words.map((word, token) => {
        const value = panel.values[layer][token];
        const cell = element("td", { role: "gridcell", tabindex: -1, "data-layer": layer, "data-token": token,
          title: `${panel.name}, layer ${layer}, “${tokens[token]}”: ${word}, ${value.toFixed(2)}` }, word);
        cell.style.backgroundColor = `rgba(${FILL}, ${MOST_FILL * Math.sqrt(Math.max(0, value) / (most || 1))})`;
        return cell;
      }))).reverse();
    return element("table", { role: "grid", "aria-label": `${panel.name}: ${model.get("title")}` }, element("caption", {}, panel.name),
      element("thead", {}, head), element("tbody", {}, ...body));
  }

  function draw() {
    const { tokens, panels } = model.get("view");
    const most = Math.max(0, ...panels.flatMap((panel) => panel.values.flat()));
    root.replaceChildren(...panels.map((panel) => table(panel, tokens, most)));
    mark();
  }

  function mark() {
    const { layer, token } = model.get("cell");
    for (const cell of root.querySelectorAll("td")) {
      const chosen = Number(cell.dataset.layer) === layer && Number(cell.dataset.token) === token;
      cell.setAttribute("aria-selected", chosen);
      cell.tabIndex = chosen ? 0 : -1;
    }
  }

  function choose(cell) {
    model.set("cell", { layer: Number(cell.dataset.layer), token: Number(cell.dataset.token) });
    model.save_changes();
  }

  // Returns the cell beside one, in the direction of an arrow key.
  function beside(cell, key) {
    const [row, at] = [cell.parentElement, [...cell.parentElement.children].indexOf(cell)];
    const found = {
      ArrowLeft: () => row.children[at - 1], ArrowRight: () => row.children[at + 1],
      ArrowUp: () => row.previousElementSibling?.children[at], ArrowDown: () => row.nextElementSibling?.children[at],
    }[key]?.();
    return found?.tagName === "TD" ? found : null;
  }

  root.addEventListener("click", (event) => event.target.closest("td") && choose(event.target.closest("td")));
  root.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") choose(cell);
    else if (!beside(cell, event.key)) return;
    else beside(cell, event.key).focus();
    event.preventDefault();
    event.stopPropagation(); // else JupyterLab takes the key
  });
  model.on("change:view", draw);
  model.on("change:cell", mark);
  draw();
  return () => { model.off("change:view", draw); model.off("change:cell", mark); };
}

export default { render };
