# SPDX-License-Identifier: GPL-3.0-or-later
"""How sites go live: what nginx refuses never does, one link changes, and a run that was killed leaves no traces.

nginx is a function here that reads what it is asked to test; tests/e2e/test_proxy.py has the real one.
"""

from __future__ import annotations

import datetime
import glob
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _certificates, _nginx, _proxy
from ansible_collections.multibase.supabase.plugins.module_utils._certificates import Acme
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from ansible_collections.multibase.supabase.plugins.module_utils._proxy_host import Outcome, Paths, Proxy, SiteResult
from ansible_collections.multibase.supabase.plugins.module_utils._routes import DASHBOARD, ROUTES

SETTINGS = _nginx.Settings(
    version=(1, 26, 3), ipv6=True, http_port=80, https_port=443, webroot="/opt/multibase/www/acme", trusted=(),
    proxy_protocol=False, hsts_seconds=1, hsts_subdomains=False, body_size="1m", requests_per_second=1, burst=1,
    auth_per_minute=1, auth_burst=1, login_per_minute=1, login_burst=1, connections=1,
)  # fmt: skip
MAIN = """worker_processes auto;
events {
\tworker_connections 768;
}
http {
    include /etc/nginx/conf.d/*.conf;
}
"""


def included(text: str) -> List[str]:
    """Return the files that nginx reads for a configuration: words in double quotes, a backslash before what is meant.

    It takes a name for a pattern where one of ``*?[`` is in it, and there a backslash says again what is meant.
    """
    found: List[str] = []
    for word in re.findall(r'^include "((?:\\.|[^"\\])*)";$', text, re.MULTILINE | re.DOTALL):
        path = re.sub(r'\\(["\\])', r"\1", word)
        if re.search(r"[*?\[]", path):
            path = re.sub(r"\\(.)", lambda match: glob.escape(match.group(1)), path, flags=re.DOTALL)
            found += sorted(glob.glob(path))
        else:
            found.append(path)
    return found


class Machine:
    """A host with a stand-in for nginx, which refuses every configuration that has one of ``bad`` in it."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(str(root / "nginx"), str(root / "letsencrypt"), str(root / "state"), "nginx")
        for directory in (root / "nginx" / "conf.d", root / "nginx" / "multibase", root / "state"):
            directory.mkdir(parents=True)
        Path(self.paths.main).write_text(MAIN)
        self.bad: List[str] = []
        self.calls: List[List[str]] = []
        # What nginx read when it was last reloaded.
        self.loaded: Dict[str, str] = {}
        self.orders: Callable[[str], Completed] = lambda _settings: Completed(0, "", "")

    def run(self, argv: Sequence[str], *_rest: Any) -> Completed:
        """Stand in for programs."""
        self.calls.append(list(argv))
        if argv[0] == "certbot":
            return self.orders(Path(argv[-1]).read_text())
        if argv[0] != "nginx":
            self.loaded = {**self.live(), "nginx.conf": Path(self.paths.main).read_text()}
            return Completed(0, "", "")
        text = Path(argv[-1]).read_text(errors="surrogateescape")
        text += "".join(Path(path).read_text() for path in included(text))
        wrong = [word for word in self.bad if word in text]
        return Completed(1 if wrong else 0, "", "".join(f"nginx: [emerg] {word} is bad\n" for word in wrong))

    def proxy(self, check_mode: bool = False, **acme: Any) -> Proxy:
        values: Dict[str, Any] = {
            "directory": "https://ca.test/dir", "email": "", "agreed": True, "webroot": "/w", "eab_kid": "",
            "eab_hmac_key": "", "dns": {}, "wildcards": (), **acme,
        }  # fmt: skip
        return Proxy(self.paths, SETTINGS, Acme(**values), [], False, 3600, check_mode, self.run)

    def converge(self, *names: str, check_mode: bool = False, **more: Any) -> Outcome:
        """Make plain sites of these names; ``more`` are other domains for some of them."""
        sites = [
            _proxy.Site(
                name, "instance", (more.get(name, name + ".example.com"),), "127.0.0.1:20000", "none",
                dashboard_user="supabase",
            )
            for name in names
        ]  # fmt: skip
        secrets = {name: "c2VjcmV0" for name in names}
        return self.proxy(check_mode).converge(_proxy.Plan(sites), secrets)

    def live(self) -> Dict[str, str]:
        """What is live, by site."""
        return {path.name[5:-5]: path.read_text() for path in Path(self.paths.live).glob("site-*.conf")}

    def count(self, program: str) -> int:
        return sum(call[0] == program for call in self.calls)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def problems(outcome: Outcome) -> Dict[str, str]:
    return {result.name: result.problem for result in outcome.results if result.problem}


def test_sites_go_live_with_one_test_and_one_reload_and_then_nothing_is_done(machine: Machine) -> None:
    outcome = machine.converge("acme", "beta")
    assert (outcome.changed, problems(outcome), sorted(machine.live())) == (True, {}, ["acme", "beta"])
    assert (machine.count("nginx"), machine.count("systemctl")) == (1, 1)
    assert Path(machine.paths.entry).read_text() == f"include {machine.paths.live}/*.conf;\n"
    machine.calls.clear()
    assert not machine.converge("acme", "beta").changed
    assert machine.calls == []


def test_what_is_live_is_for_root_only_and_a_diff_holds_no_login(machine: Machine) -> None:
    outcome = machine.converge("acme")
    assert "c2VjcmV0" in machine.live()["acme"]
    assert "c2VjcmV0" not in str(outcome.diff)
    assert "fingerprint:" in str(outcome.diff)
    for path in Path(machine.paths.live).iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert os.stat(machine.paths.live).st_mode & 0o777 == 0o700


def test_a_site_that_nginx_refuses_keeps_what_it_had_and_the_others_go_live(machine: Machine) -> None:
    machine.converge("acme", "beta", "gamma")
    before = machine.live()["beta"]
    machine.bad = ["bad.example.com", "worse.example.com"]
    outcome = machine.converge(
        "acme", "beta", "gamma", "delta", "epsilon",
        beta="bad.example.com", delta="worse.example.com", gamma="other.example.com",
    )  # fmt: skip
    assert sorted(problems(outcome)) == ["beta", "delta"]
    assert "bad.example.com is bad" in problems(outcome)["beta"]
    live = machine.live()
    assert sorted(live) == ["acme", "beta", "epsilon", "gamma"]
    assert live["beta"] == before
    assert "other.example.com" in live["gamma"]
    assert {result.name: result.live for result in outcome.results}["delta"] is False


def test_somebody_elses_mistake_stops_everything_and_changes_nothing(machine: Machine) -> None:
    machine.converge("acme")
    before = machine.live()
    (Path(machine.paths.etc) / "conf.d" / "other.conf").write_text("nonsense")
    machine.bad = ["nonsense"]
    with pytest.raises(MultibaseError, match="without any site of ours"):
        machine.converge("acme", "beta")
    assert machine.live() == before


# All of them were tried with nginx 1.22.
STRANGE = [
    "plain", "a b", " lead", "tail ", "q'uote", 'dq"uote', "semi;colon", "x; include y", "#hash", "{", "}", "$x",
    "do${x}", "new\nline", "new\n\";\nline", "back\\slash", "back\\nslash", "end\\", '\\"', "st*r", "st*\\r", "br[a]ck",
    "wh?t", "\u00fc", "\udcff",
]  # fmt: skip


def test_files_of_others_count_whatever_their_names_are(machine: Machine) -> None:
    for number, name in enumerate(STRANGE):
        # A name that is read as a pattern would find this one too.
        for each in (name, name.replace("*", "aa").replace("[a]", "a").replace("?", "a")):
            (Path(machine.paths.etc) / "conf.d" / (each + ".conf")).write_text(f"word{number}word")
    machine.bad = [f"word{number}word" for number in range(len(STRANGE))]
    with pytest.raises(MultibaseError) as caught:
        machine.converge("acme")
    assert re.findall(r"word\d+word", str(caught.value)) == machine.bad
    main = _nginx.staged_main(MAIN, [f"/c/{name}.conf" for name in STRANGE], "/s") or ""
    assert len(re.findall(r"^include ", main, re.MULTILINE)) == len(STRANGE) + 1
    machine.bad = []
    assert machine.converge("acme").changed


def test_a_configuration_that_does_not_include_ours_is_told_of(machine: Machine) -> None:
    Path(machine.paths.main).write_text("http {}\n")
    with pytest.raises(MultibaseError, match=r"does not include conf\.d"):
        machine.converge("acme")


def test_sites_that_are_no_longer_wanted_go(machine: Machine) -> None:
    machine.converge("acme", "beta")
    outcome = machine.converge("acme")
    assert sorted(machine.live()) == ["acme"]
    assert [(result.name, result.actions) for result in outcome.results if result.changed] == [("beta", ["removed"])]


def test_check_mode_tells_and_changes_nothing(machine: Machine) -> None:
    def everything() -> Dict[str, Any]:
        top = Path(machine.paths.etc)
        return {str(path): path.stat().st_mtime_ns for path in sorted(top.rglob("*"))}

    before = everything()
    outcome = machine.converge("acme", check_mode=True)
    assert outcome.changed and outcome.diff
    assert everything() == before
    assert machine.calls == []


def test_what_a_killed_run_left_is_removed_and_what_is_live_stays(machine: Machine) -> None:
    machine.converge("acme")
    base = Path(machine.paths.base)
    for name in (".staged-1", "sites-1"):
        (base / name).mkdir()
        (base / name / "site-old.conf").write_text("old")
    (Path(machine.paths.etc) / ".multibase-1.conf").write_text("")
    (Path(machine.paths.state) / "certbot-1.ini").write_text("eab-hmac-key = x")
    assert not machine.converge("acme").changed
    assert [path.name for path in sorted(base.iterdir()) if path.name.startswith((".staged", "sites-"))] == [
        os.readlink(machine.paths.live)
    ]
    assert sorted(machine.live()) == ["acme"]
    assert not list(Path(machine.paths.state).glob("certbot-*"))


class Killed(BaseException):
    """The end of a run from outside: nothing catches it as a mistake."""


def killed_at(machine: Machine, step: int, monkeypatch: pytest.MonkeyPatch, *names: str) -> bool:
    """Converge, and be killed before the given one of the steps that others see; return whether it got that far."""
    taken = iter(range(1000))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            # Nothing comes after a kill, not even what tidies up.
            if next(taken) >= step:
                raise Killed
            return function(*words, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "symlink", "unlink", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(machine, "run", counted(machine.run))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        try:
            machine.converge(*names)
        except Killed:
            return True
    return False


def test_a_run_killed_anywhere_is_finished_by_the_next_and_then_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 0
    while True:
        machine = Machine(tmp_path / str(step))
        machine.converge("acme")
        if not killed_at(machine, step, monkeypatch, "acme", "beta"):
            break
        machine.converge("acme", "beta")
        assert sorted(machine.live()) == ["acme", "beta"]
        assert machine.loaded == {**machine.live(), "nginx.conf": _nginx.roomy_main(MAIN)}, step
        machine.calls.clear()
        assert not machine.converge("acme", "beta").changed
        assert machine.calls == []
        step += 1
    # Testing, the renames of marker and link, the reload, and tidying before and after.
    assert step > 10


def test_a_reload_that_failed_is_done_by_the_next_run_and_told_of_in_check_mode(machine: Machine) -> None:
    works = machine.run
    machine.run = lambda argv, *rest: (  # type: ignore[method-assign]
        Completed(1, "", "no reload") if argv[0] == "systemctl" else works(argv, *rest)
    )
    with pytest.raises(MultibaseError, match="no reload"):
        machine.converge("acme")
    machine.run = works  # type: ignore[method-assign]
    assert machine.converge("acme", check_mode=True).changed
    assert machine.count("systemctl") == 0
    assert machine.converge("acme").changed
    assert machine.count("systemctl") == 1
    assert not machine.converge("acme").changed


def test_keys_that_a_killed_run_staged_are_removed(machine: Machine) -> None:
    site = _proxy.Site("acme", "instance", ("acme.example.com",), "127.0.0.1:20000", "self_signed")
    machine.proxy().converge(_proxy.Plan([site]), {})
    staged = []
    # Beside what is in use, and of a site that is gone.
    for name in ("acme", "gone"):
        directory = Path(machine.paths.certificates) / name / ".new-1"
        directory.mkdir(parents=True)
        (directory / "privkey.pem").write_text("key")
        staged.append(directory)
    assert not machine.proxy().converge(_proxy.Plan([site]), {}).changed
    assert not any(directory.exists() for directory in staged)
    assert len(list(Path(machine.paths.certificates).glob("*/*/privkey.pem"))) == 1
    assert [entry.name for entry in Path(machine.paths.certificates).iterdir()] == ["acme"]


def test_nobody_gets_the_domain_of_a_site_that_nginx_does_not_let_move(machine: Machine) -> None:
    machine.converge("acme", "beta", "gamma")
    before = machine.live()
    machine.bad = ["bad.example.com"]
    # beta was to leave its domain to acme, acme its own to delta; gamma has nothing to do with it.
    moves = {
        "beta": "bad.example.com",
        "acme": "beta.example.com",
        "delta": "acme.example.com",
        "gamma": "g.example.com",
    }
    outcome = machine.converge("acme", "beta", "gamma", "delta", **moves)
    told = problems(outcome)
    assert sorted(told) == ["acme", "beta", "delta"]
    assert "beta.example.com is still served by beta" in told["acme"]
    assert "acme.example.com is still served by acme" in told["delta"]
    live = machine.live()
    assert sorted(live) == ["acme", "beta", "gamma"] and "g.example.com" in live["gamma"]
    assert (live["acme"], live["beta"]) == (before["acme"], before["beta"])
    assert {result.name: result.live for result in outcome.results}["delta"] is False
    machine.bad = []
    assert problems(machine.converge("acme", "beta", "gamma", "delta", **moves)) == {}
    assert "acme.example.com" in machine.live()["delta"]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_domain_is_free_when_the_site_that_had_it_has_its_new_certificate(machine: Machine, ordered: bool) -> None:
    machine.converge("acme")

    def certbot(_settings: str) -> Completed:
        # Nobody is without a site while certificates are waited for.
        assert "acme.example.com" in machine.live()["acme"] and "beta" not in machine.live()
        directory = Path(machine.paths.letsencrypt)
        for place in ("live/multibase-acme", "renewal"):
            (directory / place).mkdir(parents=True, exist_ok=True)
        certificate, _key = _certificates.self_signed(["new.example.com"], datetime.datetime.now(datetime.timezone.utc))
        (directory / "live" / "multibase-acme" / "fullchain.pem").write_bytes(certificate)
        (directory / "renewal" / "multibase-acme.conf").write_text("server = https://ca.test/dir\n")
        return Completed(0, "", "")

    machine.orders = certbot if ordered else lambda _settings: Completed(1, "", "Detail: no")
    sites = [
        _proxy.Site("acme", "instance", ("new.example.com",), "127.0.0.1:20000", "acme"),
        _proxy.Site("beta", "instance", ("acme.example.com",), "127.0.0.1:20010", "none"),
    ]
    told = problems(machine.proxy().converge(_proxy.Plan(sites), {}))
    assert sorted(told) == ([] if ordered else ["acme", "beta"])
    assert ("acme.example.com" in machine.live().get("beta", "")) is ordered
    assert ("acme.example.com" in machine.live()["acme"]) is not ordered


def order(machine: Machine, **acme: Any) -> Dict[str, SiteResult]:
    """Converge one site that wants a certificate by ACME."""
    site = _proxy.Site("acme", "instance", ("acme.example.com",), "127.0.0.1:20000", "acme")
    outcome = machine.proxy(**acme).converge(_proxy.Plan([site]), {})
    return {result.name: result for result in outcome.results}


def test_an_order_that_failed_is_not_repeated_until_something_changes(machine: Machine) -> None:
    key = "very-secret-hmac"
    machine.orders = lambda settings: Completed(1, "", "Detail: no such " + settings.split("hmac-key")[-1])
    said = order(machine, eab_kid="kid", eab_hmac_key=key)["acme"].problem
    assert "no such  = ***" in said and key not in said
    assert order(machine, eab_kid="kid", eab_hmac_key=key)["acme"].problem.startswith("not asked again for 60 minutes")
    assert machine.count("certbot") == 1
    # Another server is another order.
    order(machine, directory="https://other.test/dir")
    assert machine.count("certbot") == 2
    assert all(key not in word for call in machine.calls for word in call)
    assert not list(Path(machine.paths.state).glob("certbot-*"))
    assert key not in (Path(machine.paths.state) / "acme.json").read_text()


def test_nothing_is_ordered_before_the_terms_are_agreed_to(machine: Machine) -> None:
    assert "agree_tos" in order(machine, agreed=False)["acme"].problem
    assert machine.count("certbot") == 0


def test_challenges_are_answered_before_anything_is_ordered(machine: Machine) -> None:
    def served(_settings: str) -> Completed:
        assert _nginx.CHALLENGES in (Path(machine.paths.live) / "00-base.conf").read_text()
        assert machine.count("systemctl") == 1
        return Completed(1, "", "")

    machine.orders = served
    order(machine)
    assert machine.count("certbot") == 1


def test_nginx_gets_room_for_connections_and_keeps_what_is_more(machine: Machine) -> None:
    roomy = _nginx.roomy_main(MAIN)
    assert "\n\t# Multibase: 768 before, raised to 8192.\n\tworker_connections 8192;" in roomy
    assert "\n# Multibase: added as 32768.\nworker_rlimit_nofile 32768;\nevents {" in roomy
    assert _nginx.roomy_main(roomy) == roomy
    more = MAIN.replace("768", "20000").replace("events", "worker_rlimit_nofile 99999;\nevents")
    assert _nginx.roomy_main(more) == more
    machine.converge("acme")
    assert Path(machine.paths.main).read_text() == roomy


def test_the_remark_on_a_number_is_true_after_somebody_changed_it() -> None:
    lowered = _nginx.roomy_main(MAIN).replace("worker_connections 8192", "worker_connections 1000")
    again = _nginx.roomy_main(lowered)
    assert again.count("# Multibase: ") == 2 and "1000 before, raised to 8192." in again
    # What stands on the same line stays in force.
    beside = _nginx.roomy_main(MAIN.replace("768;", "768; multi_accept on;"))
    assert "\tworker_connections 8192; multi_accept on;\n" in beside


def test_every_path_of_the_api_is_beside_studio_and_no_other() -> None:
    prefixes = _nginx.api_prefixes()
    for row in ROUTES:
        assert any(row.path.startswith(prefix) for prefix in prefixes) is (row.access != DASHBOARD), row.name


def test_what_certbot_says_is_told_with_the_line_below_its_title() -> None:
    output = "Saving debug log\nAn unexpected error occurred:\nThe nonce is too old\n\nSee the log."
    assert _certificates.said(output) == "An unexpected error occurred: / The nonce is too old"
