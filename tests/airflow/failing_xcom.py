"""An XCom backend that is away for one key of some tasks, as an API server or an object store can be."""

try:
    from airflow.sdk.bases.xcom import BaseXCom
except ImportError:  # Airflow 2
    from airflow.models.xcom import BaseXCom


class FailingXCom(BaseXCom):
    @staticmethod
    def serialize_value(value, *, key=None, task_id=None, **where):
        if task_id and task_id.endswith(f"fails_{key}"):
            raise ConnectionError(f"the XCom backend is away: {key}")
        return BaseXCom.serialize_value(value, key=key, task_id=task_id, **where)
