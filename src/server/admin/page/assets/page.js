'use strict';
// Keeps the overview live, and copies files. Without it the pages work, too.
(() => {
  const live = document.getElementById('live');
  const address = document.body.dataset.events;
  const say = (isLive) => {
    live.hidden = false;
    live.classList.toggle('on', isLive);
    live.textContent = isLive ? live.dataset.live : live.dataset.offline;
  };
  // Nobody loses the focus or a selection because a number has changed.
  const isInUse = (element) => {
    const selection = document.getSelection();
    return element.contains(document.activeElement) ||
      (selection && !selection.isCollapsed && element.contains(selection.anchorNode));
  };
  const waiting = new Map();
  const show = (id, html) => {
    const element = document.getElementById(id);
    if (!element) return;
    if (isInUse(element)) {
      waiting.set(id, html);
      return;
    }
    waiting.delete(id);
    element.innerHTML = html;
  };
  let events = null;
  const leave = () => {
    events?.close();
    events = null;
  };
  // A window that nobody sees takes no connection: browsers have six for each server.
  const connect = () => {
    if (!address || events || document.hidden) return;
    events = new EventSource(address);
    events.onopen = () => say(true);
    events.addEventListener('part', (event) => {
      const part = JSON.parse(event.data);
      show(part.id, part.html);
    });
    events.onerror = () => {
      say(false);
      // A refusal ends it for the browser; a broken connection does not.
      if (events?.readyState === EventSource.CLOSED) {
        leave();
        setTimeout(connect, 15000);
      }
    };
  };
  document.addEventListener('visibilitychange', () => (document.hidden ? leave() : connect()));
  addEventListener('pagehide', leave);
  addEventListener('pageshow', connect);
  document.addEventListener('focusout', () => setTimeout(() => {
    for (const [id, html] of [...waiting]) show(id, html);
  }));
  connect();

  for (const button of document.querySelectorAll('.copy')) {
    const text = button.nextElementSibling;
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        // Without TLS there is no clipboard: the text is selected, to be copied by hand.
        document.getSelection().selectAllChildren(text);
        return;
      }
      button.textContent = button.dataset.done;
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }
})();
