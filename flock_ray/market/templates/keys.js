function pair(name, value) {
  at("facts").append(made("dt", name), value);
}

// Amounts are integers of more digits than a number of this language keeps: they are read as text.
const exact = (text) => JSON.parse(text.replace(/("(?:cost|standing|uncollected|reserved|lendable)":\s*)(-?\d+)/g, '$1"$2"'));

at("usage").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    say("Asking");
    const found = exact(await (await ask("/v1/usage")).text());
    at("facts").replaceChildren();
    at("days").replaceChildren();
    pair("account", made("dd", found.account));
    pair("this key", made("dd", found.key));
    for (const [name, wei] of Object.entries(found.balance ?? {})) pair(`${name}, tokens`, amount("dd", wei));
    for (const one of found.data) {
      const row = made("tr");
      const day = new Date(one.day * 1000).toISOString().slice(0, 10);
      for (const text of [day, one.key, one.model]) row.append(made("td", text, { className: "text" }));
      for (const text of [one.requests, one.prompt_tokens, one.completion_tokens]) row.append(made("td", text));
      row.append(amount("td", one.cost));
      at("days").append(row);
    }
    at("found").hidden = false;
    say(found.data.length ? "" : "Nothing was used yet.");
  } catch (error) {
    at("found").hidden = true;
    say(error.message);
  }
});

at("receipt").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const id = encodeURIComponent(at("id").value.trim());
    at("signed").textContent = await (await ask(`/v1/receipts/${id}`)).text();
    at("signed").hidden = false;
    at("signed").focus();
    say("");
  } catch (error) {
    at("signed").hidden = true;
    say(error.message);
  }
});
