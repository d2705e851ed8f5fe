(() => {
  "use strict";
  const FIRST = 24;  // cards before "Show all"

  // Tables: a click on a heading sorts by it, numbers from the largest; what has no value is last.
  const sortBy = (table, heading) => {
    const column = heading.cellIndex;
    const body = table.tBodies[0];
    const key = row => row.cells[column].dataset.value;
    const numeric = column > 0;
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
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

  // People.
  const section = document.getElementById("people");
  const list = section.querySelector(".cards");
  const models = JSON.parse(section.dataset.models);
  const joints = JSON.parse(section.dataset.joints);
  const medians = JSON.parse(section.dataset.medians);
  const threshold = Number(section.dataset.threshold);
  const teacher = "teacher" in section.dataset ? Number(section.dataset.teacher) : null;
  const pick = Object.fromEntries(["model", "joint", "order"].map(
    name => [name, document.getElementById(`pick-${name}`)]));
  const more = document.getElementById("more");
  const people = [...list.children].map(item => ({
    item,
    button: item.querySelector("button"),
    id: item.querySelector(".id").textContent,
    errors: JSON.parse(item.dataset.errors),
    means: JSON.parse(item.dataset.means),
    against: JSON.parse(item.dataset.against),
  }));
  let ranked = [];
  let all = false;
  let open = -1;

  const model = () => pick.model ? Number(pick.model.value) : 0;
  const joint = () => pick.joint.value === "" ? null : Number(pick.joint.value);
  const text = error => error === null ? "-" : error >= 1e5 ? "\u221e" : error.toFixed(2);
  const errorOf = person =>
    joint() === null ? person.means[model()] : person.errors[model()][joint()];
  const largest = values => values.reduce(
    (best, value, at) => value !== null && (best < 0 || value > values[best]) ? at : best, -1);

  // What people are ranked by, ascending; null leaves them out.
  const rank = {
    worst: person => errorOf(person) === null ? null : -errorOf(person),
    best: errorOf,
    median: person => {
      const middle = medians[model()][joint() === null ? joints.length : joint()];
      return errorOf(person) === null || middle === null ? null : Math.abs(errorOf(person) - middle);
    },
    against: person => {
      const at = joint() === null ? largest(person.against) : joint();
      return at < 0 || person.against[at] === null ? null : -person.against[at];
    },
  };

  const describe = person => {
    const errors = person.errors[model()];
    const worst = largest(errors);
    if (pick.order.value === "against") {
      const at = joint() === null ? largest(person.against) : joint();
      return `teacher's ${joints[at]} ${text(person.errors[teacher][at])}`;
    }
    if (joint() !== null) return `${joints[joint()]} ${text(errors[joint()])}`;
    return `mean ${text(person.means[model()])}` +
      (worst < 0 ? "" : `, worst ${joints[worst]} ${text(errors[worst])}`);
  };

  const sayRanking = shown => {
    const chosen = pick.order.selectedOptions[0].textContent;
    const who = pick.order.value === "against" ? "" : `${models[model()]}, `;
    const where = joint() === null ? "" : `${joints[joint()]}, `;
    document.getElementById("ranked").textContent =
      `${shown} of ${ranked.length} people: ${who}${where}${chosen}.`;
  };

  const update = () => {
    ranked = people.map(person => [rank[pick.order.value](person), person])
      .filter(([key]) => key !== null)
      .sort(([a], [b]) => a - b)
      .map(([, person]) => person);
    if (ranked.length === 0) ranked = [...people];  // nobody is labeled
    const shown = all ? ranked.length : Math.min(FIRST, ranked.length);
    for (const person of people) {
      person.item.hidden = true;
      person.item.querySelectorAll(".layer.prediction").forEach(
        (drawing, at) => drawing.classList.toggle("other", at !== model()));
    }
    ranked.forEach((person, place) => {
      person.item.hidden = place >= shown;
      person.item.querySelector(".score").textContent = describe(person);
      list.append(person.item);
    });
    more.hidden = shown === ranked.length;
    more.textContent = `Show all ${ranked.length}`;
    sayRanking(shown);
  };

  // The person enlarged.
  const dialog = section.querySelector("dialog");
  const cell = (name, content) => {
    const made = document.createElement(name);
    made.textContent = content;
    return made;
  };
  const row = (name, errors, limit) => {
    const made = document.createElement("tr");
    const heading = cell("th", name);
    heading.scope = "row";
    made.append(heading, ...errors.map(error => {
      const beyond = error !== null && error > limit;
      const found = cell("td", text(error) + (beyond ? " *" : ""));
      found.classList.toggle("beyond", beyond);
      return found;
    }));
    return made;
  };
  const show = place => {
    open = (place + ranked.length) % ranked.length;
    const person = ranked[open];
    document.getElementById("person-title").textContent = person.id;
    const holder = document.getElementById("person-picture");
    const drawing = person.item.querySelector("svg").cloneNode(true);
    drawing.removeAttribute("aria-hidden");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", `${person.id}: ${describe(person)}`);
    holder.replaceChildren(drawing);
    holder.className = list.className.replace("cards", "");
    dialog.querySelector("tbody").replaceChildren(
      row("mean", person.means, Infinity),
      ...joints.map((name, at) => row(name, person.errors.map(errors => errors[at]), threshold)));
    document.getElementById("person-reasons").textContent =
      `Chosen as: ${person.item.dataset.reasons}.`;
    if (!dialog.open) dialog.showModal();
  };
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") show(open - 1);
    if (event.key === "ArrowRight") show(open + 1);
  });
  document.getElementById("previous").addEventListener("click", () => show(open - 1));
  document.getElementById("next").addEventListener("click", () => show(open + 1));

  for (const person of people) {
    person.button.addEventListener("click", () => show(ranked.indexOf(person)));
  }
  for (const choice of Object.values(pick)) choice?.addEventListener("change", update);
  const layers = section.querySelectorAll("[data-layer]");
  const setLayers = () => layers.forEach(
    box => list.classList.toggle(`without-${box.dataset.layer}`, !box.checked));
  layers.forEach(box => box.addEventListener("change", setLayers));
  pick.order.addEventListener("change", () => {
    if (pick.order.value !== "against") return;
    section.querySelector("[data-layer=teacher]").checked = true;  // what it is about
    setLayers();
  });
  section.querySelector(".controls").addEventListener("submit", event => event.preventDefault());
  more.addEventListener("click", () => { all = true; update(); ranked[FIRST].button.focus(); });
  setLayers();  // a browser may have kept them over a reload
  update();
})();
