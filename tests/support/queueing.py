"""Those who wait for a node, one step at a time."""

from airflow_provider_impala_lb.errors import MustWait


def acquire_now(picker, name, **options):
    """The pick, or None if it has to wait in the line under this name."""
    try:
        return picker.acquire(name, ticket=name, asks_again=1, wait=1e9, **options)
    except MustWait:
        return None


def waiter_of(picker, name, asks_again):
    """Who would take a lease, and asks and looks by single steps."""
    real = picker.cluster.picker
    request = real._request(real._lease(name, name), None, None, ())
    request.may_wait, request.ticket = True, real._ticket(name, name, asks_again)
    return real._waiter(request)


def waiting(picker):
    return [entry["owner"] for entry in picker.status()["waiting"]]
