// All but the timeline: reads the document, fills in the page, and ties its parts together. What comes from a run is put
// in as text, never as markup.

const ROWS_MAX = 3000; // of the log at a time

const run = JSON.parse(document.getElementById("document").textContent);
const by = (id) => document.getElementById(id);

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

const endings = new Map(run.marks.filter((mark) => ["exit", "failed", "ended"].includes(mark.name)).map((mark) => [mark.rank, mark]));

function head() {
  by("verdict").textContent = run.ok ? "✓ All checks hold" : "✗ Failed";
  by("verdict").className = run.ok ? "good" : "bad";
  const rounds = run.rounds ? `${counted(run.rounds, "round")}, ` : "";
  by("facts").textContent = `${counted(run.world_size, "rank")}, ${rounds}${run.duration_s.toFixed(2)} s, seed ${run.seed}; began ${new Date(run.began).toLocaleString()}`;
  by("failure").hidden = !run.failure;
  by("failure").textContent = run.failure;
  by("command").textContent = run.command;
  by("command").title = run.directory && `in ${run.directory}`;
  by("copy").onclick = () => copy(run.command);
  by("made").textContent = `Made by ${run.made_by}. The same run is in report.json, trace.json (for Perfetto) and junit.xml beside this file.`;
  for (const check of run.checks) {
    by("verdicts").tBodies[0].append(make("tr", {},
      make("td", {className: check.passed ? "good" : "bad"}, check.passed ? "✓ holds" : "✗ fails"),
      make("td", {}, check.name), make("td", {}, check.detail)));
  }
}

async function copy(text) {
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch { // without a permission: let people copy it themselves
    getSelection().selectAllChildren(by("command"));
    done = document.execCommand("copy");
  }
  by("copy").textContent = done ? "Copied" : "Selected";
}

function legend() {
  const names = new Set(run.spans.filter((span) => span.rank !== null).map((span) => span.name));
  for (const name of names) {
    const swatch = make("i", {className: THIN.has(name) ? "thin" : ""});
    swatch.style.background = `var(--${/^[a-z]+$/.test(name) ? name : "other"}, var(--other))`;
    by("legend").append(make("li", {}, swatch, name));
  }
  const signs = {exit: "❙ exit", failed: "✕ failed", ended: "✕ ended", fault: "▼ fault", heal: "▲ heal"};
  const seen = new Set(run.marks.map((mark) => signs[mark.name] ?? "◆ event"));
  if (run.passages.length) by("legend").append(make("li", {}, "↗ request"), make("li", {}, "↘ reply"));
  for (const sign of seen) by("legend").append(make("li", {className: /✕|▼/.test(sign) ? "bad" : ""}, sign));
}

function table() {
  const milliseconds = (value) => value === null ? "none" : `${(value * 1e3).toFixed(1)} ms`;
  for (const rank of run.ranks) {
    const end = endings.get(rank.rank);
    const good = !end || end.name === "exit";
    const row = make("tr", {id: `rank-${rank.rank}`, onclick: () => choose(rank.rank)},
      make("td", {}, make("button", {ariaLabel: `choose rank ${rank.rank}`}, String(rank.rank))), make("td", {}, String(rank.pid ?? "none")),
      make("td", {}, String(rank.rounds)), make("td", {}, milliseconds(rank.join_s)),
      make("td", {className: good ? "" : "bad", title: end ? end.text : ""}, end ? end.text.split(": ")[0] : ""));
    by("lanes").tBodies[0].append(row);
  }
  by("whose").append(make("option", {value: ""}, "all ranks"), ...run.ranks.map((rank) => make("option", {value: rank.rank}, `rank ${rank.rank}`)));
}

// The log: what was printed, and between that what happened

const story = [
  ...run.lines,
  ...run.marks.map((mark) => ({...mark, stream: "event", text: described(mark)})),
  ...run.spans.map((span) => ({rank: span.rank, at_s: span.begin_s, stream: "event", text: described(span)})),
].sort((a, b) => a.at_s - b.at_s);

function log() {
  const rank = by("whose").value === "" ? null : Number(by("whose").value);
  const needle = by("needle").value.toLowerCase(), events = by("events").checked;
  const found = story.filter((line) => (rank === null || line.rank === rank) && (events || line.stream !== "event")
    && (!needle || line.text.toLowerCase().includes(needle)));
  by("log").replaceChildren(...found.slice(0, ROWS_MAX).map((line) => {
    const row = make("div", {className: line.stream}, make("time", {}, seconds(line.at_s, 1e-4)), make("b", {}, String(line.rank ?? "all")), make("span", {}, line.text));
    row.dataset.at = line.at_s;
    return row;
  }));
  const cut = rank === null ? run.ranks.reduce((sum, each) => sum + each.cut_bytes, 0) : run.ranks[rank].cut_bytes;
  by("count").textContent = [
    counted(found.length, "line"),
    found.length > ROWS_MAX ? `the first ${counted(ROWS_MAX, "line")} shown: choose a rank, or a word` : "",
    cut ? `${counted(cut, "byte")} printed before that left out` : "",
  ].filter(Boolean).join("; ");
  const blamed = rank ?? [...endings.values()].find((end) => end.name === "failed")?.rank ?? run.ranks.find((each) => each.stack)?.rank;
  const {error, stack} = run.ranks[blamed] ?? {error: "", stack: ""};
  by("error").hidden = !(error || stack);
  by("error").textContent = [error && `rank ${blamed}: ${error}`, stack && `rank ${blamed} ${endings.get(blamed)?.text ?? "did not end"}\n${stack}`]
    .filter(Boolean).join("\n");
}

// Putting it together

function choose(rank) {
  document.querySelector("#lanes .chosen")?.classList.remove("chosen");
  chart.choose(rank);
  if (rank !== null) {
    const row = by(`rank-${rank}`);
    row.classList.add("chosen");
    row.closest(".tall").scrollTop = row.offsetTop - 60;
    say(`rank ${rank}: ${endings.get(rank)?.text ?? "its end is unknown"}`);
  }
  by("whose").value = rank ?? "";
  log();
}

function say(text) { by("said").textContent = text; }

function hover(text, event) {
  const tip = by("tip");
  tip.hidden = !text;
  tip.textContent = text;
  if (!text) return;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18}px`;
}

head();
legend();
table();
const chart = new Chart(by("chart"), run, {choose, say, hover});
for (const button of document.querySelectorAll("[data-do]")) button.onclick = () => chart.act(button.dataset.do);
by("whose").onchange = () => choose(by("whose").value === "" ? null : Number(by("whose").value));
by("events").onchange = by("needle").oninput = log;
by("log").addEventListener("pointerover", (event) => {
  const row = event.target.closest("[data-at]");
  if (row) chart.point(Number(row.dataset.at));
});
log();
