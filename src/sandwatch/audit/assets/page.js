"use strict";
(() => {
  document.documentElement.classList.add("scripted");

  // Tables: click a head to sort, type to filter.
  const order = new Intl.Collator("en", {numeric: true});
  const main = (row, at) => (row.cells[at].firstChild?.nodeName === "I" ? row.cells[at].childNodes[1] : row.cells[at].firstChild)?.textContent ?? "";
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      const number = head.classList.contains("number");
      const value = (row) => number ? Number(main(row, at).replace(/\s/g, "")) : main(row, at);
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const down = was === "none" ? number : was === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = rows.map((row) => [value(row), row]);
        keyed.sort(([a], [b]) => (number ? a - b : order.compare(a, b)) * (down ? -1 : 1));
        body.append(...keyed.map(([, row]) => row));
      });
    });
    if (rows.length < 8) continue;
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const label = document.createElement("label"), input = document.createElement("input"), count = document.createElement("span");
    label.className = "filter";
    input.type = "search";
    count.setAttribute("role", "status");
    label.append("Filter ", input, count);
    table.parentElement.before(label);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of texts) {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }

  // The map.
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.detail) return;
  const {places, pictures} = data, names = Object.keys(places);
  const select = document.getElementById("observation"), status = document.getElementById("place");
  const option = (value, text) => select.append(new Option(text, value));
  option("", `all ${names.length} observations`);
  for (const name of names) option(name, places[name].mines ? `${name}: ${places[name].labels} labels` : `${name}: negative`);

  const together = (all) => all.reduce((a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  const everywhere = together(names.map((name) => places[name].bounds));

  // Shows bounds whole, a pixel as long in x as in y.
  const fit = (plot, bounds, margin) => {
    const width = plot.inner_width, height = plot.inner_height;
    if (!width || !height) return;
    const [left, bottom, right, top] = bounds;
    const pixel = Math.max((right - left) / width, (top - bottom) / height, 2000 / width) * margin;
    const x = (left + right) / 2, y = (bottom + top) / 2;
    plot.x_range.setv({start: x - pixel * width / 2, end: x + pixel * width / 2});
    plot.y_range.setv({start: y - pixel * height / 2, end: y + pixel * height / 2});
  };

  const start = async () => {
    const find = (views) => [...views][0].model;
    const overview = find(await Bokeh.embed.embed_item(data.overview, "overview"));
    const detail = find(await Bokeh.embed.embed_item(data.detail, "detail"));
    const named = (plot, name) => [...plot.references()].find((model) => model.name === name);
    const [marks, chosen] = ["observations", "chosen"].map((name) => named(overview, name));
    const [picture, shown] = ["picture", "shown"].map((name) => named(detail, name));
    const every = [...shown.indices];
    let bounds = everywhere;

    const bar = document.getElementById("scale");
    const scale = () => {
      const {x_range: x, y_range: y, inner_width: width} = detail;
      if (!width) return;
      // Web Mercator stretches lengths by 1 / cos(latitude) = cosh(y / R). Source: EPSG method 1024.
      const metres = (x.end - x.start) / width / Math.cosh((y.start + y.end) / 2 / 6378137);
      const most = metres * Math.min(160, width / 3);
      const power = 10 ** Math.floor(Math.log10(most));
      const length = [5, 2, 1].find((step) => step * power <= most) * power;
      bar.firstElementChild.style.width = `${length / metres}px`;
      bar.firstChild.before(...(bar.firstChild === bar.firstElementChild ? [""] : []));
      bar.firstChild.textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
      bar.style.display = "block";
    };

    const show = (name) => {
      select.value = name;
      const place = places[name], behind = pictures[name];
      bounds = place ? place.bounds : everywhere;
      shown.indices = place ? place.rows : every;
      const [left, bottom, right, top] = behind ? behind.bounds : [];
      picture.data = behind ? {url: [behind.url], x: [left], y: [top], w: [right - left], h: [top - bottom]} : {url: [], x: [], y: [], w: [], h: []};
      chosen.data = place ? {x: [(bounds[0] + bounds[2]) / 2], y: [(bounds[1] + bounds[3]) / 2]} : {x: [], y: []};
      fit(detail, bounds, place ? 1.06 : 1.16);
      scale();
      status.textContent = !place ? "Choose one to see its picture."
        : `fold ${place.fold}, ${place.windows} windows drawn ${place.draws} times` +
          (place.labels > place.rows.length ? `; ${place.rows.length} of ${place.labels} labels drawn` : "") +
          (behind ? "" : "; no picture here");
    };
    const step = (by) => {
      const at = names.indexOf(select.value);
      show(names[(at + by + names.length + (at < 0 && by < 0 ? 1 : 0)) % names.length]);
    };
    select.addEventListener("change", () => show(select.value));
    document.getElementById("before").addEventListener("click", () => step(-1));
    document.getElementById("after").addEventListener("click", () => step(1));
    marks.selected.properties.indices.change.connect(() => {
      const [at] = marks.selected.indices;
      if (at !== undefined) show(marks.data.obs[at]);
    });
    for (const range of [detail.x_range, detail.y_range]) range.change.connect(scale);
    for (const size of ["inner_width", "inner_height"]) {
      overview.properties[size].change.connect(() => fit(overview, everywhere, 1.16));
      detail.properties[size].change.connect(() => show(select.value));
    }
    fit(overview, everywhere, 1.16);
    const most = names.reduce((a, b) => (places[b].positives > places[a].positives ? b : a));
    show(places[most].positives ? most : "");
    document.getElementById("map").dataset.drawn = "yes";
  };
  start();
})();
