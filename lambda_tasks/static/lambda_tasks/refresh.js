/* Replaces the part of a page that changes, every ten seconds while somebody looks at it.

It leaves the page alone while text or a box in the part is selected, or something in the part or a
form has the focus: then a link says that there is newer data. Without this script, a link refreshes the page. */
"use strict";

(() => {
    const EVERY_MS = 10000;
    const LIMIT_MS = 9000;
    const part = document.querySelector("[data-lt-refresh]");
    const newer = document.querySelector(".lt-newer");
    if (!part) {
        return;
    }
    let shown = part.innerHTML;
    let isAsking = false;

    function isInUse() {
        const selection = document.getSelection();
        const focused = document.activeElement;
        return (selection !== null && !selection.isCollapsed)
            || part.querySelector("input:checked") !== null
            || (focused !== null && (part.contains(focused) || focused.closest("form") !== null));
    }

    function normalized(text) {
        const holder = document.createElement("template");
        holder.innerHTML = text;
        return holder.innerHTML;
    }

    function show(text) {
        const open = [...part.querySelectorAll("details")].map((each) => each.open);
        const scrolled = [...part.querySelectorAll(".lt-scroll")].map((each) => each.scrollLeft);
        // The server has escaped it, as it has the page itself; scripts in it would not run.
        part.innerHTML = text;
        shown = text;
        part.querySelectorAll("details").forEach((each, n) => {
            each.open = open[n] ?? each.open;
        });
        part.querySelectorAll(".lt-scroll").forEach((each, n) => {
            each.scrollLeft = scrolled[n] ?? 0;
        });
        newer.hidden = true;
    }

    async function refresh() {
        if (document.hidden || isAsking) {
            return;
        }
        isAsking = true;
        try {
            const answer = await fetch(part.dataset.ltRefresh, {
                headers: {"X-Lambda-Tasks-Refresh": "part"},
                signal: AbortSignal.timeout(LIMIT_MS),
            });
            // A run that has ended has another page, and so has who is signed out meanwhile.
            if (!answer.ok || answer.redirected) {
                newer.hidden = false;
                clearInterval(timer);
                return;
            }
            const text = normalized(await answer.text());
            if (text !== shown) {
                if (isInUse()) {
                    newer.hidden = false;
                } else {
                    show(text);
                }
            }
        } catch {
            // The server is away, or slow: the next round asks again.
        } finally {
            isAsking = false;
        }
    }

    const timer = setInterval(refresh, EVERY_MS);
    document.addEventListener("visibilitychange", refresh);
})();
