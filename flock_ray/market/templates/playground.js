// Conversations so far, one of each model: what one answered is no part of another's.
let histories = new Map();
let running = null;

function messagesFor(model, text) {
  const system = at("system").value.trim();
  const before = histories.get(model) ?? [];
  return [...(system ? [{ role: "system", content: system }] : []), ...before, { role: "user", content: text }];
}

// Reads the events of an answer; `show` gets each piece of text.
async function streamed(model, messages, signal, show) {
  const body = {
    model, messages, stream: true, stream_options: { include_usage: true },
    max_tokens: Number(at("most").value), temperature: Number(at("temperature").value),
  };
  const response = await ask("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const found = { id: "", model, text: "", usage: null, receipt: null, reason: null };
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The connection broke before the answer was whole.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const line of events.filter((one) => one.startsWith("data: "))) {
      const data = line.slice(6);
      if (data === "[DONE]") return found;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      found.id = event.id ?? found.id;
      found.model = event.model ?? found.model;
      found.usage = event.usage ?? found.usage;
      found.receipt = event.receipt ?? found.receipt;
      const choice = event.choices?.[0];
      found.reason = choice?.finish_reason ?? found.reason;
      const piece = choice?.delta?.content;
      if (piece) {
        found.text += piece;
        show(piece);
      }
    }
  }
}

function facts(found) {
  const usage = found.usage ? `${found.usage.prompt_tokens} tokens in, ${found.usage.completion_tokens} out` : "";
  return [usage, found.reason === "length" ? "cut at the most tokens" : ""].filter(Boolean).join("; ");
}

async function answerIn(column, model, text, signal) {
  const messages = messagesFor(model, text);
  const title = made("h3", model);
  const answer = made("pre", "", { className: "answer" });
  const told = made("p", "", { className: "muted" });
  answer.setAttribute("aria-busy", "true");
  column.append(title, answer, told);
  try {
    const found = await streamed(model, messages, signal, (piece) => answer.append(piece));
    title.textContent = found.model;
    told.textContent = facts(found);
    histories.set(model, [...messages.filter((one) => one.role !== "system"), { role: "assistant", content: found.text }]);
    if (found.receipt) {
      const receipt = made("details");
      receipt.append(made("summary", "Receipt"), made("pre", JSON.stringify(found.receipt, null, 1), { className: "receipt" }));
      column.append(receipt);
    }
    column.append(feedback(found, messages));
  } catch (error) {
    told.className = "bad";
    told.textContent = error.name === "AbortError" ? "Stopped; what came is paid." : error.message;
  } finally {
    answer.setAttribute("aria-busy", "false");
  }
}

// Thumbs, and a correction, of one answer.
function feedback(found, messages) {
  const box = made("div");
  const good = made("button", "Good answer", { type: "button" });
  const bad = made("button", "Bad answer", { type: "button" });
  const correct = made("button", "Correct it", { type: "button" });
  const told = made("p", "", { className: "muted" });
  told.setAttribute("role", "status");
  const form = made("form", "", { hidden: true });
  const id = `correction-${crypto.randomUUID()}`;
  const text = made("textarea", found.text, { id });
  const label = made("label", "What would have been right", { htmlFor: id });
  const send = made("button", "Send the correction", { type: "submit" });
  form.append(label, text, send);
  correct.setAttribute("aria-expanded", "false");
  const post = async (rating, correction) => {
    const body = {
      request: found.id, messages, answer: found.text, rating, correction,
      consent: at("consent").checked, licence: at("licence").value,
    };
    try {
      await ask("/v1/feedback", { method: "POST", body: JSON.stringify(body) });
      good.setAttribute("aria-pressed", String(rating > 0));
      bad.setAttribute("aria-pressed", String(rating < 0));
      told.textContent = body.consent ? "Kept; it may be trained on." : "Kept; it is not trained on.";
      return true;
    } catch (error) {
      told.textContent = error.message;
      return false;
    }
  };
  good.addEventListener("click", () => post(1, ""));
  bad.addEventListener("click", () => post(-1, ""));
  correct.addEventListener("click", () => {
    form.hidden = !form.hidden;
    correct.setAttribute("aria-expanded", String(!form.hidden));
    if (!form.hidden) text.focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await post(-1, text.value)) {
      form.hidden = true;
      correct.setAttribute("aria-expanded", "false");
      correct.focus();
    }
  });
  const row = made("div", "", { className: "row" });
  row.append(good, bad, correct);
  box.append(row, form, told);
  return box;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("message").value.trim();
  if (!text || running) return;
  if (!at("key").value.trim()) {
    at("key").focus();
    return say("An API key is needed.");
  }
  running = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  say("Answering");
  const turn = made("article", "", { className: "turn" });
  const columns = made("div", "", { className: "answers" });
  turn.append(made("p", text, { className: "asked" }), columns);
  at("conversation").append(turn);
  const models = [...new Set([at("model").value, ...(at("beside").checked ? ["base"] : [])])];
  await Promise.all(models.map((model) => {
    const column = made("div");
    columns.append(column);
    return answerIn(column, model, text, running.signal);
  }));
  running = null;
  at("send").disabled = false;
  at("stop").disabled = true;
  at("message").value = "";
  at("message").focus();
  say("");
});
at("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => running?.abort());
at("anew").addEventListener("click", () => {
  running?.abort();
  histories = new Map();
  at("conversation").replaceChildren();
  at("message").focus();
});
