# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Alerts: from what rules find to what is told, once for each change. Pure but for the file at the end.

An alert is pending while its rule's time runs, then firing, then resolved; it is told when it fires and when it is
resolved. A silence keeps what fires from being told; when it ends, what still fires is. An acknowledgement says that
somebody knows, and ends with its alert.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import _lock, _registry
from ._alert_rules import RULES, Rules, message
from ._errors import InvalidInput, StateCorrupt
from ._layout import Layout
from ._publish import replace_file

PENDING, FIRING, RESOLVED = "pending", "firing", "resolved"
# How long a resolved alert is still shown.
SHOWN_SECONDS = 3600.0
# After that a message that no channel took is of no use.
GIVEN_UP_SECONDS = 86400.0
LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Alert:
    """One alert. Times are seconds since 1970; ``begun`` is of the state, ``well_since`` of the last good values.

    ``told`` is whether its firing was told (or was to be, when nobody wants to know).
    """

    rule: str
    severity: str
    instance: str
    subject: str
    state: str
    begun: float
    since: float
    value: float
    threshold: float
    message: str
    well_since: Optional[float] = None
    told: bool = False
    episode: str = ""
    acknowledged: Optional[Mapping[str, Any]] = None

    @property
    def id(self) -> str:
        """A name of the alert that stays the same while it lasts and comes again when it comes again."""
        return alert_id(self.rule, self.instance, self.subject)


@dataclass(frozen=True)
class Silence:
    """What is not told until ``until``. Empty members match all."""

    id: str
    instance: str
    rule: str
    subject: str
    until: float
    by: str
    reason: str
    made: float

    def covers(self, alert: Alert) -> bool:
        """Whether an alert is meant."""
        pairs = ((self.instance, alert.instance), (self.rule, alert.rule), (self.subject, alert.subject))
        return all(not mine or mine == its for mine, its in pairs)


@dataclass(frozen=True)
class Event:
    """A change that is told: ``change`` is firing or resolved. ``id`` is the same when it is told again."""

    id: str
    change: str
    host: str
    alert: Mapping[str, Any]
    made: float

    def as_message(self) -> Dict[str, Any]:
        """Return what a channel gets."""
        return {"id": self.id, "change": self.change, "host": self.host, "alert": dict(self.alert)}


@dataclass(frozen=True)
class Delivery:
    """An event that a channel has not taken yet."""

    event: Event
    channel: str
    tries: int = 0
    next_at: float = 0.0


@dataclass
class State:
    """Everything that outlives the sampler."""

    alerts: Dict[str, Alert] = field(default_factory=dict)
    silences: List[Silence] = field(default_factory=list)
    outbox: List[Delivery] = field(default_factory=list)


def alert_id(rule: str, instance: str, subject: str) -> str:
    """Return the name of an alert: twelve hexadecimal digits."""
    return hashlib.sha256("\0".join((rule, instance, subject)).encode("utf-8")).hexdigest()[:12]


def _silenced_until(silences: Sequence[Silence], alert: Alert, now: float) -> Optional[float]:
    ends = [silence.until for silence in silences if silence.until > now and silence.covers(alert)]
    return max(ends) if ends else None


def step(state: State, live: Mapping[str, Any], rules: Rules, now: float) -> List[Event]:
    """Bring the alerts of ``state`` up to date with a live document; return what is to be told."""
    events: List[Event] = []
    seen = set()
    host = live["host"]["name"]
    state.silences = [silence for silence in state.silences if silence.until > now]
    for name, about in RULES.items():
        for finding in about.find(live):
            identity = alert_id(name, finding.instance, finding.subject)
            before = state.alerts.get(identity)
            rule = rules.of(name, finding.instance)
            if rule is None:
                continue
            seen.add(identity)
            active = before is not None and before.state != RESOLVED
            if rule.bad(finding.value, active):
                if before is None or not active:
                    before = Alert(name, rule.severity, finding.instance, finding.subject, PENDING, now, now,
                                   finding.value, rule.threshold, "", episode=secrets.token_hex(4))  # fmt: skip
                after = replace(
                    before, severity=rule.severity, value=finding.value, threshold=rule.threshold,
                    message=message(name, finding, rule), well_since=None,
                )  # fmt: skip
                if after.state == PENDING and now - after.since >= rule.wait:
                    after = replace(after, state=FIRING, begun=now)
                state.alerts[identity] = after
            elif before is not None and active:
                _well(state, before, now, rule.resolve_after, finding.value)
    # What is not looked at any more (a service that was taken out, a rule that was switched off) is over; what nobody
    # can see just now, because Docker is away, is as it was.
    reachable = live["host"]["engine"]["reachable"]
    for identity, alert in list(state.alerts.items()):
        over = reachable or rules.of(alert.rule, alert.instance) is None
        if over and identity not in seen and alert.state != RESOLVED:
            _well(state, alert, now, 0.0, alert.value)
    for identity, alert in list(state.alerts.items()):
        if alert.state == RESOLVED:
            if alert.told:
                events.append(_event("resolved", host, alert, now))
                state.alerts[identity] = replace(alert, told=False)
            elif now - alert.begun > SHOWN_SECONDS or now < alert.begun - SHOWN_SECONDS:
                del state.alerts[identity]
        elif alert.state == FIRING and not alert.told and _silenced_until(state.silences, alert, now) is None:
            events.append(_event("firing", host, alert, now))
            state.alerts[identity] = replace(alert, told=True)
    return events


def _well(state: State, alert: Alert, now: float, resolve_after: float, value: float) -> None:
    """Note good values of an alert: it ends when they have been good for long enough, a pending one at once."""
    since = now if alert.well_since is None else alert.well_since
    if alert.state == PENDING:
        del state.alerts[alert.id]
    elif now - since >= resolve_after:
        ended = replace(alert, state=RESOLVED, begun=now, value=value, well_since=since, acknowledged=None)
        state.alerts[alert.id] = ended
    else:
        state.alerts[alert.id] = replace(alert, value=value, well_since=since)


def _event(change: str, host: str, alert: Alert, now: float) -> Event:
    return Event("{0}-{1}-{2}".format(alert.id, alert.episode, change), change, host, shown(alert, None), now)


def shown(alert: Alert, silenced_until: Optional[float]) -> Dict[str, Any]:
    """Return an alert as the live document has it."""
    return {
        "id": alert.id,
        "rule": alert.rule,
        "severity": alert.severity,
        "instance": alert.instance,
        "subject": alert.subject,
        "state": alert.state,
        "since": alert.since if alert.state != RESOLVED else alert.begun,
        "value": round(alert.value, 2),
        "threshold": alert.threshold,
        "message": alert.message,
        "acknowledged": None if alert.acknowledged is None else dict(alert.acknowledged),
        "silenced_until": silenced_until,
    }


def all_shown(state: State, now: float) -> List[Dict[str, Any]]:
    """Return the alerts part of the live document: what fires first, the critical before the others."""
    order = {FIRING: 0, PENDING: 1, RESOLVED: 2}
    alerts = sorted(
        state.alerts.values(),
        key=lambda one: (order[one.state], one.severity != "critical", one.instance, one.rule, one.subject),
    )
    return [shown(alert, _silenced_until(state.silences, alert, now)) for alert in alerts]


def post(
    state: State, events: Sequence[Event], channels: Sequence[Mapping[str, Any]], wants: Callable[..., bool]
) -> None:
    """Put events into the outbox, once for each channel that wants to know."""
    for event in events:
        for channel in channels:
            if wants(channel, event.as_message()):
                state.outbox.append(Delivery(event, str(channel["name"])))


def tried(delivery: Delivery, now: float) -> Optional[Delivery]:
    """Return when a delivery that failed is tried again: after 15 s, 30 s, ... an hour; None when it is given up."""
    if now - delivery.event.made > GIVEN_UP_SECONDS:
        return None
    pause = min(3600.0, 15.0 * 2 ** min(delivery.tries, 10))
    return replace(delivery, tries=delivery.tries + 1, next_at=now + pause)


# --- the file --------------------------------------------------------------------------------------------------------


def path_of(layout: Layout) -> str:
    """Return where alerts are kept."""
    return os.path.join(layout.monitor_state, "alerts.json")


def load(layout: Layout, say: Callable[[str], None]) -> State:
    """Read the state; one that is damaged is set aside, and all begins anew."""
    path = path_of(layout)
    try:
        data = _registry.read_json(path)
        return _from_json(data) if data is not None else State()
    except (StateCorrupt, KeyError, TypeError, ValueError, AttributeError) as error:
        with contextlib.suppress(OSError):
            os.replace(path, path + ".damaged")
        say("what was known of alerts is damaged ({0}); it is kept as {1}.damaged".format(type(error).__name__, path))
        return State()


def _from_json(data: Mapping[str, Any]) -> State:
    alerts = [Alert(**row) for row in data["alerts"]]
    outbox = [Delivery(Event(**row["event"]), row["channel"], row["tries"], row["next_at"]) for row in data["outbox"]]
    silences = [Silence(**row) for row in data["silences"]]
    return State({alert.id: alert for alert in alerts if alert.rule in RULES}, silences, outbox)


def save(layout: Layout, state: State) -> None:
    """Write the state."""
    data = {
        "alerts": [asdict(alert) for alert in state.alerts.values()],
        "silences": [asdict(silence) for silence in state.silences],
        "outbox": [asdict(delivery) for delivery in state.outbox],
    }
    os.makedirs(layout.monitor_state, mode=0o700, exist_ok=True)
    replace_file(path_of(layout), json.dumps(data).encode("utf-8"), 0o600)


@contextlib.contextmanager
def changing(layout: Layout, say: Callable[[str], None]) -> Iterator[State]:
    """Have the state to oneself, and write it afterwards if it changed. The sampler and people change it."""
    os.makedirs(os.path.join(layout.state, "locks"), mode=0o700, exist_ok=True)
    with _lock.exclusive(layout.alerts_lock, LOCK_SECONDS):
        state = load(layout, say)
        before = _copy(state)
        yield state
        if _copy(state) != before:
            save(layout, state)


def _copy(state: State) -> Tuple[Any, ...]:
    """Return what is worth a write: an alert's value changes with every look, and is measured again by the next."""
    alerts = {identity: replace(alert, value=0.0, message="") for identity, alert in state.alerts.items()}
    return (alerts, list(state.silences), list(state.outbox))


# --- what people do --------------------------------------------------------------------------------------------------


def acknowledge(state: State, identity: str, by: str, note: str, now: float) -> Alert:
    """Note that somebody knows of an alert. Raises InvalidInput, naming those that there are."""
    alert = state.alerts.get(identity)
    if alert is None or alert.state == RESOLVED:
        there = ", ".join(sorted(one.id for one in state.alerts.values() if one.state != RESOLVED)) or "none"
        raise InvalidInput(["there is no alert {0} that is not over; there are: {1}".format(identity, there)])
    state.alerts[identity] = replace(alert, acknowledged={"by": by, "at": now, "note": note})
    return state.alerts[identity]


def silence(
    state: State, instance: str, rule: str, subject: str, seconds: float, by: str, reason: str, now: float
) -> Silence:
    """Add a silence. Raises InvalidInput."""
    problems = []
    if rule and rule not in RULES:
        problems.append("there is no rule {0}; there are {1}".format(rule, ", ".join(sorted(RULES))))
    if not 0 < seconds <= 366 * 86400:
        problems.append("a silence lasts from a second to a year")
    if problems:
        raise InvalidInput(problems)
    made = Silence(secrets.token_hex(4), instance, rule, subject, now + seconds, by, reason, now)
    state.silences.append(made)
    return made


def unsilence(state: State, identity: str) -> Silence:
    """Take a silence back. Raises InvalidInput, naming those that there are."""
    for one in state.silences:
        if one.id == identity:
            state.silences.remove(one)
            return one
    there = ", ".join(one.id for one in state.silences) or "none"
    raise InvalidInput(["there is no silence {0}; there are: {1}".format(identity, there)])
