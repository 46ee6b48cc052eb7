"""What the tasks of ``dags/stick_forms.py`` are: which read what was loaded, and where each has to run."""

READERS = [
    *("by_operator", "by_output", "by_key", "by_id", "by_template", "by_text", "by_result"),
    *("group.by_full_id", "group.by_short_id", "work", "drop", "query", "decorated"),
]
MAPPED_READERS = {"mapped": 2, "mapped_output": 2, "over_kwargs": 2, "over_list": 3, "twins": 3, "each.read": 2}
UPSTREAM = {
    **dict.fromkeys(READERS, "load"),
    **dict.fromkeys(("deferred", "mapped", "mapped_output", "over_kwargs", "over_list"), "load"),
    **dict.fromkeys(("check", "column", "table", "sensor", "branch", "transfer"), "load"),
    **dict.fromkeys(("group.by_full_id", "group.by_short_id"), "group.stage"),
    **dict.fromkeys(("work", "drop"), "create"),
}
