(() => {
  "use strict";
  const INITIAL_CARDS = 24;  // before "Show all"

  // Tables: clicking a heading sorts by its column, numbers in descending order first. Rows without
  // a value come last.
  const sortBy = (table, heading) => {
    const column = heading.cellIndex;
    const body = table.tBodies[0];
    const key = row => row.cells[column].dataset.value;
    const numeric = column > 0;
    const initial = numeric ? "descending" : "ascending";
    const opposite = numeric ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === initial ? opposite : initial;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b);
    const rows = [...body.rows].sort((a, b) => {
      if (!key(a) || !key(b)) return Number(!key(a)) - Number(!key(b));
      return sign * compare(key(a), key(b));
    });
    for (const cell of heading.parentElement.cells) cell.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => sortBy(table, heading));
    }
  }

  // A hint beside each table that is wider than the page, with the number of columns not seen.
  const hideOrShowHint = box => {
    const { left, right } = box.getBoundingClientRect();
    const headings = [...box.querySelectorAll("thead th")].slice(1);
    const first = box.querySelector("thead th")?.getBoundingClientRect().right ?? left;
    const edges = headings.map(heading => heading.getBoundingClientRect());
    const after = edges.filter(edge => edge.right > right + 2).length;
    const before = edges.filter(edge => edge.left < first - 2).length;
    const columns = count => `${count} more column${count === 1 ? "" : "s"}`;
    const hint = box.previousElementSibling;
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
    hint.textContent = "Scroll sideways: " + [
      ...before ? [`\u2190 ${columns(before)}`] : [], ...after ? [`${columns(after)} \u2192`] : [],
    ].join(", ");
  };
  for (const box of document.querySelectorAll(".scroll")) {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.setAttribute("aria-hidden", "true");  // a screen reader reads all columns
    box.before(hint);
    box.addEventListener("scroll", () => hideOrShowHint(box), { passive: true });
    new ResizeObserver(() => hideOrShowHint(box)).observe(box);
  }

  // The gallery of samples.
  const section = document.getElementById("samples");
  const list = section.querySelector(".cards");
  const models = JSON.parse(section.dataset.models);
  const joints = JSON.parse(section.dataset.joints);
  const medians = JSON.parse(section.dataset.medians);
  const threshold = Number(section.dataset.threshold);
  const teacher = "teacher" in section.dataset ? Number(section.dataset.teacher) : null;
  const pick = Object.fromEntries(["model", "joint", "order"].map(
    name => [name, document.getElementById(`pick-${name}`)]));
  const more = document.getElementById("more");
  const samples = [...list.children].map(item => ({
    item,
    button: item.querySelector("button"),
    id: item.querySelector(".id").textContent,
    errors: JSON.parse(item.dataset.errors),
    means: JSON.parse(item.dataset.means),
    disagreements: JSON.parse(item.dataset.disagreements),
  }));
  let sorted = [];
  let showAll = false;
  let openIndex = -1;

  const pickedModel = () => pick.model ? Number(pick.model.value) : 0;
  const pickedJoint = () => pick.joint.value === "" ? null : Number(pick.joint.value);
  const format = error => error === null ? "-" : error >= 1e5 ? "\u221e" : error.toFixed(2);
  const errorOf = sample => pickedJoint() === null
    ? sample.means[pickedModel()] : sample.errors[pickedModel()][pickedJoint()];
  const indexOfLargest = values => values.reduce(
    (best, value, index) =>
      value !== null && (best < 0 || value > values[best]) ? index : best, -1);
  const disagreeingJoint = sample =>
    pickedJoint() === null ? indexOfLargest(sample.disagreements) : pickedJoint();

  // What samples are sorted by, ascending; samples with null are not shown.
  const sortKeys = {
    worst: sample => errorOf(sample) === null ? null : -errorOf(sample),
    best: errorOf,
    median: sample => {
      const column = pickedJoint() === null ? joints.length : pickedJoint();
      const median = medians[pickedModel()][column];
      return errorOf(sample) === null || median === null
        ? null : Math.abs(errorOf(sample) - median);
    },
    disagreement: sample => {
      const joint = disagreeingJoint(sample);
      return joint < 0 || sample.disagreements[joint] === null
        ? null : -sample.disagreements[joint];
    },
  };

  const describe = sample => {
    const errors = sample.errors[pickedModel()];
    const worst = indexOfLargest(errors);
    if (pick.order.value === "disagreement") {
      const joint = disagreeingJoint(sample);
      return `${joints[joint]} (teacher) ${format(sample.errors[teacher][joint])}`;
    }
    if (pickedJoint() !== null) return `${joints[pickedJoint()]} ${format(errors[pickedJoint()])}`;
    return `mean ${format(sample.means[pickedModel()])}` +
      (worst < 0 ? "" : `, worst ${joints[worst]} ${format(errors[worst])}`);
  };

  const showStatus = shown => {
    const order = pick.order.selectedOptions[0].textContent;
    const model = pick.order.value === "disagreement" ? "" : `${models[pickedModel()]}, `;
    const joint = pickedJoint() === null ? "" : `${joints[pickedJoint()]}, `;
    document.getElementById("sort-status").textContent =
      `${shown} of ${sorted.length} samples: ${model}${joint}${order}.`;
  };

  const update = () => {
    sorted = samples.map(sample => [sortKeys[pick.order.value](sample), sample])
      .filter(([key]) => key !== null)
      .sort(([a], [b]) => a - b)
      .map(([, sample]) => sample);
    if (sorted.length === 0) sorted = [...samples];  // no sample is labeled
    const color = pickedModel() % Number(section.dataset.colors);
    section.style.setProperty("--prediction", `var(--photo-${color})`);
    const shown = showAll ? sorted.length : Math.min(INITIAL_CARDS, sorted.length);
    for (const sample of samples) {
      sample.item.hidden = true;
      sample.item.querySelectorAll(".layer.prediction").forEach(
        (drawing, index) => drawing.classList.toggle("other", index !== pickedModel()));
    }
    sorted.forEach((sample, position) => {
      sample.item.hidden = position >= shown;
      sample.item.querySelector(".score").textContent = describe(sample);
      list.append(sample.item);
    });
    more.hidden = shown === sorted.length;
    more.textContent = `Show all ${sorted.length}`;
    showStatus(shown);
  };

  // The dialog with one sample.
  const dialog = section.querySelector("dialog");
  const makeCell = (tag, content) => {
    const cell = document.createElement(tag);
    cell.textContent = content;
    return cell;
  };
  const makeRow = (name, errors, limit) => {
    const row = document.createElement("tr");
    const heading = makeCell("th", name);
    heading.scope = "row";
    row.append(heading, ...errors.map(error => {
      const above = error !== null && error > limit;
      const cell = makeCell("td", format(error) + (above ? " *" : ""));
      cell.classList.toggle("above", above);
      return cell;
    }));
    return row;
  };
  const openSample = index => {
    openIndex = (index + sorted.length) % sorted.length;
    const sample = sorted[openIndex];
    document.getElementById("sample-title").textContent = sample.id;
    const holder = document.getElementById("sample-picture");
    const drawing = sample.item.querySelector("svg").cloneNode(true);
    drawing.removeAttribute("aria-hidden");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", `${sample.id}: ${describe(sample)}`);
    holder.replaceChildren(drawing);
    holder.className = list.className.replace("cards", "");
    dialog.querySelector("tbody").replaceChildren(
      makeRow("mean", sample.means, Infinity),
      ...joints.map((name, joint) =>
        makeRow(name, sample.errors.map(errors => errors[joint]), threshold)));
    document.getElementById("sample-reasons").textContent =
      `Selected by: ${sample.item.dataset.reasons}.`;
    if (!dialog.open) dialog.showModal();
  };
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") openSample(openIndex - 1);
    if (event.key === "ArrowRight") openSample(openIndex + 1);
  });
  document.getElementById("previous").addEventListener("click", () => openSample(openIndex - 1));
  document.getElementById("next").addEventListener("click", () => openSample(openIndex + 1));

  for (const sample of samples) {
    sample.button.addEventListener("click", () => openSample(sorted.indexOf(sample)));
  }
  for (const control of Object.values(pick)) control?.addEventListener("change", update);
  const layers = section.querySelectorAll("[data-layer]");
  const setLayers = () => layers.forEach(
    box => list.classList.toggle(`without-${box.dataset.layer}`, !box.checked));
  layers.forEach(box => box.addEventListener("change", setLayers));
  pick.order.addEventListener("change", () => {
    if (pick.order.value !== "disagreement") return;
    section.querySelector("[data-layer=teacher]").checked = true;  // needed to see the disagreement
    setLayers();
  });
  section.querySelector(".controls").addEventListener("submit", event => event.preventDefault());
  more.addEventListener("click", () => {
    showAll = true;
    update();
    sorted[INITIAL_CARDS].button.focus();
  });
  setLayers();  // browsers may restore checkboxes when the page is reloaded
  update();
})();
