# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A report in a few lines of plain text, as the body of a mail."""

from __future__ import annotations

from typing import Any, List, Mapping

from ._report_csv import moment


def subject(report: Mapping[str, Any]) -> str:
    """Return one line: what needs attention, of how many hosts and instances."""
    attention, totals = report["totals"]["attention"], report["totals"]
    told = "{critical} critical, {warning} warnings".format(**attention)
    state = told if report["attention"] else "all is well"
    return "Multibase: {0} ({1} hosts, {2} instances)".format(state, totals["hosts"], totals["instances"])


def render(report: Mapping[str, Any]) -> str:
    """Return what needs attention, a line each, and the totals."""
    totals = report["totals"]
    states = ", ".join("{0} {1}".format(count, state) for state, count in totals["instances_by_state"].items() if count)
    lines: List[str] = [subject(report), ""]
    for one in report["attention"]:
        place = " ".join(filter(None, (one["host"], one["instance"], one["subject"])))
        lines.append(" ".join("{0:8} {1}: {2}".format(one["severity"].upper(), place, one["message"]).splitlines()))
    lines += [""] if report["attention"] else []
    lines += [
        "made:      {0}".format(moment(report["made_at"])),
        "hosts:     {hosts}, {hosts_unreadable} not read, {hosts_stale} stale".format(**totals),
        "instances: {0}".format(states or "none"),
        "services:  {services_well} of {services} are well".format(**totals),
        "backups:   {backups}, {backups_overdue} overdue".format(**totals),
        "alerts:    {alerts_firing} fire, {alerts_answered} of them acknowledged or silenced".format(**totals),
    ]
    return "\n".join(lines) + "\n"
