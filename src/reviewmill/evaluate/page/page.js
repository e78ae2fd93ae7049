"use strict";
(() => {
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll(".lang button")];
  const speak = (language) => {
    root.dataset.lang = language;
    root.lang = language === "zh" ? "zh-CN" : "en";
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === language));
    const search = document.getElementById("search");
    if (search) search.placeholder = search.dataset[language];
  };
  for (const button of buttons) button.addEventListener("click", () => speak(button.value));
  speak((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en");

  const list = document.getElementById("list");
  if (!list) return;
  const rows = [...list.children].map((row) => ({ row, text: row.textContent.toLowerCase(), data: row.dataset }));
  const search = document.getElementById("search");
  const pair = document.getElementById("pair");
  const tag = document.getElementById("tag");
  const shown = document.getElementById("shown");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text, data } of rows) {
      const fits =
        words.every((word) => text.includes(word)) &&
        (!pair.value || data.pair === pair.value) &&
        (!tag || !tag.value || data.tags.split(" ").includes(tag.value));
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.value = `${count} / ${rows.length}`;
  };
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  for (const select of [pair, tag]) if (select) select.addEventListener("change", filter);
  for (const cell of document.querySelectorAll("a[data-pair]"))
    cell.addEventListener("click", () => {
      pair.value = cell.dataset.pair;
      filter();
    });
  filter();
})();
