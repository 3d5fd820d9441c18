"use strict";
// The page behind `plm playground`. It asks the server that it came from, and nobody else; a link holds the program only.

const at = (id) => document.getElementById(id);
const START = `# The sentence that joins the two ends of a story.
lm base = "MODEL"

program story_infilling(opening: text, ending: text) {
  latent middle: text(tokens=1..25, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
}
`;
const ROW = '{"opening": "Tom played in the park. It was a windy day.", "ending": "The doctor took care of it."}';
const SHOWN = 10;

let coloured = []; // [character, kind] of the program as it stands
let running = null; // what stops the run that goes on
let looked = 0; // how often the program was looked at, so that late answers are dropped

function make(name, attributes, ...inside) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...inside);
  return made;
}

async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (answer.status === 401) at("asks").hidden = false;
  if (answer.ok) return answer;
  const { error, diagnostics } = await answer.json();
  throw Object.assign(new Error(error.message), { diagnostics: diagnostics || [] });
}

// ---------------------------------------------------------------- the program

function shade(marks) {
  const shown = at("shade");
  shown.replaceChildren();
  let line = 1, column = 1, last = null, run = null;
  for (const [character, kind] of coloured) {
    const mark = marks.find((m) => within(m, line, column));
    const look = `${kind || ""} ${mark ? (mark.severity === "error" ? "wrong" : "doubted") : ""}`.trim();
    if (look !== last) {
      run = make("span", { className: look }, "");
      shown.append(run);
      last = look;
    }
    run.firstChild.data += character;
    [line, column] = character === "\n" ? [line + 1, 1] : [line, column + 1];
  }
  shown.append("\n"); // a last empty line has its height too
  shown.scrollTop = at("program").scrollTop;
}

function within(mark, line, column) {
  if (mark.line === null) return false;
  const begun = line > mark.line || (line === mark.line && column >= mark.column);
  return begun && (line < mark.end_line || (line === mark.end_line && column < mark.end_column));
}

// What was not touched keeps its colours until the server has looked at the rest.
function recoloured(text) {
  const now = Array.from(text), before = coloured;
  const most = Math.min(now.length, before.length);
  let head = 0, tail = 0;
  while (head < most && before[head][0] === now[head]) head += 1;
  while (tail < most - head && before[before.length - 1 - tail][0] === now[now.length - 1 - tail]) tail += 1;
  return now.map((character, i) => {
    if (i < head) return before[i];
    return i >= now.length - tail ? before[i - now.length + before.length] : [character, null];
  });
}

async function look() {
  const mine = ++looked, text = at("program").value;
  try {
    const found = await (await post("/v1/check", { program: text, show: true })).json();
    if (mine !== looked) return;
    coloured = found.pieces.flatMap(([kind, piece]) => Array.from(piece, (c) => [c, kind]));
    shade(found.diagnostics);
    tell(found.diagnostics);
    if (found.graph) at("graph").innerHTML = found.graph; // the server's own drawing, escaped there
  } catch (problem) {
    if (mine === looked) say(problem.message, true);
  }
}

function tell(diagnostics) {
  at("problems").replaceChildren(...diagnostics.map((d) => {
    const where = d.line === null ? "" : `line ${d.line}: `;
    const told = make("button", { type: "button", className: d.severity }, `${where}${d.message} (${d.code})`);
    if (d.help) told.append(make("small", {}, d.help));
    told.addEventListener("click", () => go(d));
    return make("li", {}, told);
  }));
}

function go(diagnostic) {
  const field = at("program");
  field.focus();
  if (diagnostic.line === null) return;
  const lines = field.value.split("\n");
  const start = lines.slice(0, diagnostic.line - 1).reduce((sum, l) => sum + l.length + 1, 0);
  const place = start + Array.from(lines[diagnostic.line - 1]).slice(0, diagnostic.column - 1).join("").length;
  field.setSelectionRange(place, place);
}

let waiting = 0;
function edited() {
  coloured = recoloured(at("program").value);
  shade([]);
  clearTimeout(waiting);
  waiting = setTimeout(look, 150);
}

// ---------------------------------------------------------------- a run

function rowsOf(text) {
  const whole = text.trim();
  if (!whole) return [{}];
  try {
    const found = JSON.parse(whole);
    return Array.isArray(found) ? found : [found];
  } catch (problem) {
    return whole.split("\n").filter((line) => line.trim()).map((line, k) => {
      try {
        return JSON.parse(line);
      } catch (_) {
        throw new Error(`row ${k + 1} of the parameters is no JSON`);
      }
    });
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let kept = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (kept + value).split("\n\n");
    kept = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block);
      yield [name, JSON.parse(data)];
    }
  }
}

async function run() {
  if (running) return;
  running = new AbortController();
  at("run").disabled = true;
  at("stop").disabled = false;
  at("results").replaceChildren();
  const began = performance.now();
  try {
    const body = { program: at("program").value, rows: rowsOf(at("rows").value), stream: true, tokens: true,
                   n: Number(at("n").value), seed: Number(at("seed").value) };
    if (at("method").value) body.method = at("method").value;
    say("waiting for the model");
    let over = false;
    for await (const [name, event] of events(await post("/v1/posterior", body, running.signal))) {
      if (name === "progress") say(`row ${event.row}: ${event.note || "drawing"}, ${Math.round(100 * (event.fraction || 0))} %`);
      if (name === "result") at("results").append(answered(event, body.rows.length > 1));
      if (name === "error") throw Object.assign(new Error(event.error.message), event);
      over = over || name === "done";
    }
    say(over ? `done in ${((performance.now() - began) / 1000).toFixed(1)} s` : "the server ended the run", !over);
  } catch (problem) {
    if (problem.diagnostics && problem.diagnostics.some((d) => d.line !== null)) {
      shade(problem.diagnostics);
      tell(problem.diagnostics);
    }
    say(problem.name === "AbortError" ? "stopped" : problem.message, problem.name !== "AbortError");
  } finally {
    running = null;
    at("run").disabled = false;
    at("stop").disabled = true;
  }
}

// A value, its tokens coloured by how likely the model finds each of them.
function written(value, tokens) {
  if (!tokens) return make("span", { className: "text" }, value);
  return make("span", { className: "text" }, ...tokens.map(([text, nats, shade]) => make("span", {
    className: `tok s${shade}`, title: nats === null ? "p = 0" : `p = ${Math.exp(nats).toPrecision(3)}, ${nats.toFixed(2)} nats`,
  }, text.replace(/\n/g, "\u21b5\n"))));
}

const SHADES = ["likely", "", "", "", "", "below 0.1 %"];
const legend = () => make("p", { className: "faint" }, "Tokens, by the model's probability of each: ",
  ...SHADES.map((text, k) => make("span", { className: `tok s${k}` }, text || "\u00a0\u00a0")));

function answered(found, many) {
  const nats = (x) => (x === null ? "–" : x.toFixed(3));
  const se = found.log_evidence_se === null ? "" : ` ± ${nats(found.log_evidence_se)}`;
  const ess = found.ess === null ? "" : `, ESS ${found.ess.toFixed(1)} of ${found.n}`;
  const bars = found.draws.slice(0, SHOWN).map((draw) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * draw.weight}%`;
    const values = Object.entries(draw.values).flatMap(([name, value], k, all) => [
      ...(k ? [" "] : []), ...(all.length > 1 ? [`${name} `] : []), written(value, (draw.tokens || {})[name])]);
    const share = make("span", { className: "share" }, `${(100 * draw.weight).toFixed(1)} %`);
    return make("li", { title: `log reward ${nats(draw.log_reward)} nats` }, share, make("span", {}, ...values),
                make("span", { className: "track" }, bar));
  });
  const rest = found.draws.length - bars.length;
  return make("div", { className: "answer" },
    ...(many ? [make("h3", {}, `rows[${found.row}]`)] : []),
    make("p", { className: "verdict" }, found.verdict),
    make("p", { className: "faint" }, `log evidence ${nats(found.log_evidence)}${se} nats by ${found.method}${ess}`),
    make("ol", { className: "bars" }, ...bars),
    ...(found.draws.some((draw) => Object.keys(draw.tokens || {}).length) ? [legend()] : []),
    ...(rest > 0 ? [make("p", { className: "faint" }, `and ${rest} more values`)] : []));
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").className = bad ? "bad" : "";
}

// ---------------------------------------------------------------- links, and the beginning

function linked(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function unlinked(hash) {
  const plain = atob(hash.replace(/-/g, "+").replace(/_/g, "/"));
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(plain, (c) => c.charCodeAt(0)));
}

async function share() {
  const link = `${location.origin}${location.pathname}#p=${linked(at("program").value)}`;
  history.replaceState(null, "", link);
  try {
    await navigator.clipboard.writeText(link);
    say("the link is copied; it holds the program, and no parameters");
  } catch (_) {
    say("the link stands in the address bar; it holds the program, and no parameters");
  }
}

async function begin() {
  let names = [];
  try {
    names = (await (await fetch("/v1/models")).json()).data.map((m) => m.id);
  } catch (_) { /* a server that asks for a token says so at the first look */ }
  if (names.length) at("models").textContent = names.join(", ");
  at("program").value = START.replace("MODEL", names[0] || "tiny");
  at("rows").value = ROW;
  if (location.hash.startsWith("#p=")) {
    try {
      at("program").value = unlinked(location.hash.slice(3));
      at("rows").value = "";
    } catch (_) {
      say("the link holds no program", true);
    }
  }
  edited();
  look();
}

at("program").addEventListener("input", edited);
at("program").addEventListener("scroll", () => { at("shade").scrollTop = at("program").scrollTop; });
at("ask").addEventListener("submit", (event) => { event.preventDefault(); run(); });
at("stop").addEventListener("click", () => running && running.abort());
at("share").addEventListener("click", share);
at("token").addEventListener("change", begin);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  if (event.key === "Escape" && running) running.abort();
});
begin();
