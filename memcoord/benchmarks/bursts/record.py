"""``python -m memcoord.benchmarks.bursts.record OUT [NAME..]``: make the demand traces again.

Owns: six programs of the kinds that want memory in bursts, what they work on, and how long each is
recorded. Inputs are made anew (by ffmpeg's lavfi, Pillow and plain text), so nothing of others is
needed but the programs: mpv and ffmpeg, chromium, g++, emacs, pygame for Debian's python3, Pillow
for the Python that runs this. A server of pictures and streams runs in this process, outside of
what is sampled. For each trace a line of JSON says how it was made and how bursty it is.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from memcoord.testbed.traces.demand import SHIPPED, burstiness, write_demand
from memcoord.testbed.traces.sampling import PERIOD_US, record

SUBJECTS = Path(__file__).parent / "subjects"
SYSTEM_PYTHON = "/usr/bin/python3"
SECONDS = 30.0
#: Streams that a viewer changes between: each plays for a few seconds.
STREAMS = ("1280x720", "1920x1080", "640x360", "1920x1080")
STREAM_S = 4
PICTURES = 10
PAGES = 5
EDITED_LINES = 120_000
#: What Chromium may not do besides rendering: no network, no first steps, no updates.
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
EDITS = """(progn (setq large-file-warning-threshold nil)
  (dolist (name '("one.txt" "two.txt" "three.txt"))
    (find-file name) (sit-for 0.4)
    (goto-char (point-min))
    (while (re-search-forward "lorem \\\\([a-z]+\\\\)" nil t) (replace-match "\\\\1 ipsum"))
    (sit-for 0.4) (sort-lines nil (point-min) (point-max)) (sit-for 0.4)
    (copy-region-as-kill (point-min) (point-max)) (goto-char (point-max)) (yank)
    (sit-for 0.4) (undo-boundary) (upcase-region (point-min) (point-max)))
  (dolist (buffer (buffer-list)) (set-buffer buffer) (set-buffer-modified-p nil)
    (kill-buffer buffer) (sit-for 0.3)))"""
HEAVY = """#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <tuple>
#include <variant>
#include <vector>
template <int N> struct Node {
  std::map<std::string, std::tuple<int, Node<N - 1>>> next;
  std::vector<std::variant<int, std::string, std::function<int(int)>>> values;
  int visit(const std::regex &re) {
    int sum = 0;
    for (auto &[key, value] : next) if (std::regex_search(key, re)) sum += std::get<0>(value);
    std::sort(values.begin(), values.end(),
              [](const auto &a, const auto &b) { return a.index() < b.index(); });
    for (auto &v : values) sum += std::visit([](auto &x) { return (int)sizeof x + N; }, v);
    return sum + Node<N - 1>().visit(re);
  }
};
template <> struct Node<0> { int visit(const std::regex &) { return 1; } };
int main() { std::cout << Node<22>().visit(std::regex("[a-z]+")); }
"""

#: Makes what a program works on, in a folder, and says what to run there; the URL is the server's.
Prepare = Callable[[Path, str], list[str]]


def player(work: Path, url: str) -> list[str]:
    """A player that follows streams of several sizes over HTTP, at their own speed."""
    for number, size in enumerate(STREAMS):
        source = f"testsrc2=size={size}:rate=30:duration={STREAM_S}"
        noisy = ["-vf", "noise=alls=20:allf=t", "-c:v", "libx264", "-preset", "veryfast"]
        _run("ffmpeg", "-y", "-f", "lavfi", "-i", source, *noisy, f"stream{number}.mkv", cwd=work)
    urls = [f"{url}/stream{number}.mkv" for number in range(len(STREAMS))]
    return ["mpv", "--no-config", "--vo=null", "--ao=null", "--hwdec=no", "--cache=yes", *urls]


def browser(work: Path, url: str) -> list[str]:
    """A browser that renders pages one after the other; each one leads to the next."""
    for number in range(PAGES):
        rows = "".join(
            f"<tr><td>{row}<td><img src=picture{row % PICTURES}.jpg width=90><td>{'text ' * 20}"
            for row in range(300 * (1 + number % 3))
        )
        script = (
            "let kept=[];onload=()=>{for(let i=0;i<40;i++)setTimeout(()=>{"
            "kept.push(Array.from({length:20000},(_,k)=>({k,s:'x'+k})));"
            "document.body.append('more '.repeat(200))},i*40);"
            f"setTimeout(()=>location='page{(number + 1) % PAGES}.html',3000)}}"
        )
        text = f"<!doctype html><body><table>{rows}</table><script>{script}</script>"
        (work / f"page{number}.html").write_text(text, encoding="ascii")
    _pictures(work)
    (work / "profile").mkdir()
    data = f"--user-data-dir={work / 'profile'}"
    return ["chromium", *CHROMIUM, data, "--remote-debugging-port=0", f"{url}/page0.html"]


def feed(work: Path, url: str) -> list[str]:
    """A client of a feed: HTTP and a decoder of pictures."""
    _pictures(work)
    return [sys.executable, str(SUBJECTS / "feed.py"), url, str(PICTURES), "16"]


def compiler(work: Path, url: str) -> list[str]:
    """g++ on a file of templates; cc1plus and the assembler are its children."""
    del url
    (work / "heavy.cpp").write_text(HEAVY, encoding="ascii")
    return ["g++", "-std=c++17", "-O2", "-g", "-c", "heavy.cpp", "-o", "heavy.o"]


def editor(work: Path, url: str) -> list[str]:
    """An editor that opens large files, searches, sorts, copies, and closes them."""
    del url
    source = random.Random(3)
    words = ["lorem", "dolor", "sit", "amet", "consetetur", "sadipscing"]
    for name in ("one", "two", "three"):
        lines = (" ".join(source.choices(words, k=12)) for _ in range(EDITED_LINES))
        (work / f"{name}.txt").write_text("\n".join(lines), encoding="ascii")
    return ["emacs", "--batch", "--quick", "--eval", EDITS]


def game(work: Path, url: str) -> list[str]:
    """A game's loop that loads levels."""
    del work, url
    return [SYSTEM_PYTHON, str(SUBJECTS / "game.py"), "5", "2.5"]


PROGRAMS: dict[str, Prepare] = {
    "browser": browser, "compiler": compiler, "editor": editor, "feed": feed, "game": game,
    "player": player,
}  # fmt: skip
assert tuple(PROGRAMS) == SHIPPED


def _run(*argv: str, cwd: Path) -> None:
    subprocess.run(argv, cwd=cwd, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _pictures(work: Path) -> None:
    """Photographs of 1 to 12 million pixels, as far as their sizes go."""
    from PIL import Image

    source = random.Random(5)
    for number in range(PICTURES):
        width = source.randrange(1200, 4200)
        noise = Image.effect_noise((width // 4, width // 5), 90).resize((width, width * 3 // 4))
        noise.convert("RGB").save(work / f"picture{number}.jpg", quality=80)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a server of the files in ``folder``."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make(name: str, out: Path) -> dict[str, Any]:
    """Record one program; what is to be said of its trace."""
    dummies = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    with tempfile.TemporaryDirectory(prefix="mc-demand-") as folder:
        work = Path(folder)
        with _served(work) as url:
            argv = PROGRAMS[name](work, url)
            env = {**os.environ, **dummies, "HOME": folder}
            sampled = record(
                argv, period_us=PERIOD_US, seconds=SECONDS, quiet=True, env=env, cwd=work
            )
    path = out / f"demand_{name}.csv.xz"
    write_demand(path, sampled.trace)
    told = {key: value for key, value in asdict(sampled).items() if key != "trace"}
    told |= {"name": name, "program": argv[0], "period_us": PERIOD_US}
    told |= {"rows": len(sampled.trace.t_us), "bytes": path.stat().st_size}
    return told | {"burstiness": asdict(burstiness(sampled.trace))}


def main(out: str, *names: str) -> None:
    """Record ``names``, or all."""
    for name in names or PROGRAMS:
        sys.stdout.write(msgspec.json.encode(make(name, Path(out))).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
