// Keeps the live page as new as the run: the server sends what has changed, by server-sent events.
"use strict";

(() => {
  const status = document.getElementById("status");
  const source = new EventSource(`events${location.search}`);
  let hasEnded = false;

  function put(id, html) {
    const node = document.getElementById(id);
    if (node.told !== html) {
      node.told = html;
      node.innerHTML = html;
    }
  }

  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    for (const [id, html] of Object.entries(news.html)) put(id, html);
    if (news.sections) Leash.draw(document.getElementById("pictures"), news.sections);
    hasEnded = news.ended;
    status.textContent = news.status;
    status.className = news.ended ? "status over" : "status live";
    document.title = news.title;
    document.body.dataset.updates = Number(document.body.dataset.updates || 0) + 1;
  };

  source.onerror = () => {
    if (hasEnded) {
      source.close();
      return;
    }
    status.textContent = "nobody answers: trying again";
    status.className = "status lost";
  };
})();
