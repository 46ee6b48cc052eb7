"""The HS2 calls of one connection, on impyla's generated code."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from impala._thrift_gen.ExecStats.ttypes import TExecProgress, TExecState, TExecSummary  # noqa: TID253 (node only)
from impala._thrift_gen.ImpalaService import ImpalaHiveServer2Service as service  # noqa: TID253
from impala._thrift_gen.ImpalaService import ttypes as impala  # noqa: TID253
from impala._thrift_gen.TCLIService import ttypes as t  # noqa: TID253

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.coordinator.coordinator import VERSION, Connection, Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation
from airflow_provider_impala_lb.sandbox.coordinator.profile import exec_nodes, profile_text
from airflow_provider_impala_lb.sandbox.coordinator.session import Session
from airflow_provider_impala_lb.sandbox.server import jdbc_metadata, row_encoding
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.lexer import statement
from airflow_provider_impala_lb.sandbox.sql.plan import Plan
from airflow_provider_impala_lb.sandbox.sql.planner import plan

_STATES = {
    "INITIALIZED": t.TOperationState.INITIALIZED_STATE,
    "RUNNING": t.TOperationState.RUNNING_STATE,
    "FINISHED": t.TOperationState.FINISHED_STATE,
    "ERROR": t.TOperationState.ERROR_STATE,
}
_EXEC_STATES = {
    "INITIALIZED": TExecState.REGISTERED,
    "RUNNING": TExecState.RUNNING,
    "FINISHED": TExecState.FINISHED,
    "ERROR": TExecState.FAILED,
}
_SOON = 0.005
"""Seconds that ExecuteStatement waits for the end: most statements need less, and clients poll every 10 ms."""


def _ok() -> Any:
    return t.TStatus(statusCode=t.TStatusCode.SUCCESS_STATUS)


RESPONSES: dict[str, Any] = {}
"""The answer's class for each call: whatever goes wrong, this is what comes, with the error in its status."""


def failure(error: Exception) -> Any:
    """The status that tells of an error: Impala's, or a fault of the sandbox itself, which must look like a failed
    statement and not like a broken server.

    :param error: what was raised.
    """
    if isinstance(error, Refused):
        return t.TStatus(statusCode=t.TStatusCode.ERROR_STATUS, sqlState=error.sql_state, errorMessage=str(error))
    traceback.print_exception(error)
    text = f"InternalException: the practice cluster failed: {type(error).__name__}: {error}"
    return t.TStatus(statusCode=t.TStatusCode.ERROR_STATUS, sqlState="HY000", errorMessage=text)


def _answers(response: Any) -> Callable[[Any], Any]:
    """A refusal becomes this response with its text in the status."""

    def wrap(method: Any) -> Any:
        RESPONSES[method.__name__] = response

        @functools.wraps(method)
        def call(self: Handler, request: Any) -> Any:
            try:
                return method(self, request)
            except Exception as error:
                return response(status=failure(error))

        return call

    return wrap


class Handler(service.Iface):  # type: ignore[misc]
    """The calls of HiveServer2, each named as in the protocol: from Thrift's ``request`` to its response.

    An exception becomes the status of the response. Parameters as `service.Iface` has them.

    :param coordinator: answers them.
    :param connection: where the calls come from; its user, if it proved to be one, must be the session's.
    """

    def __init__(self, coordinator: Coordinator, connection: Connection) -> None:
        self._coordinator, self._connection = coordinator, connection

    # -- sessions

    @_answers(t.TOpenSessionResp)
    def OpenSession(self, request: Any) -> Any:
        """Open a session."""
        session = self._coordinator.open_session(
            self._connection, request.username or "", dict(request.configuration or {})
        )
        configuration = {**session.effective_options(), "http_addr": self._coordinator.web_address}
        handle = t.TSessionHandle(t.THandleIdentifier(session.guid, session.secret))
        return t.TOpenSessionResp(_ok(), t.TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6, handle, configuration)

    @_answers(t.TCloseSessionResp)
    def CloseSession(self, request: Any) -> Any:
        """Close a session and cancel its statements."""
        handle = _identifier(request.sessionHandle.sessionId)
        self._coordinator.close_session(*handle, self._connection)
        return t.TCloseSessionResp(_ok())

    @_answers(t.TGetInfoResp)
    def GetInfo(self, request: Any) -> Any:
        """Name and version of the server."""
        self._coordinator.check_not_shutting_down()
        with self._session(request):
            names = {
                t.TGetInfoType.CLI_SERVER_NAME: "Impala",
                t.TGetInfoType.CLI_DBMS_NAME: "Impala",
                t.TGetInfoType.CLI_DBMS_VER: VERSION,
            }
            if request.infoType not in names:
                raise Refused("Unsupported operation", "HYC00")
            return t.TGetInfoResp(_ok(), t.TGetInfoValue(stringValue=names[request.infoType]))

    @_answers(impala.TPingImpalaHS2ServiceResp)
    def PingImpalaHS2Service(self, request: Any) -> Any:
        """Version and web address of the server; impala-shell asks for them."""
        with self._session(request):
            web = f"http://{self._coordinator.web_address}"
            return impala.TPingImpalaHS2ServiceResp(_ok(), version=VERSION, webserver_address=web)

    # -- statements

    @_answers(t.TExecuteStatementResp)
    def ExecuteStatement(self, request: Any) -> Any:
        """Analyse a statement and start it."""
        self._coordinator.check_not_shutting_down()
        with self._session(request) as session:
            overlay = dict(query_options.checked(*each) for each in (request.confOverlay or {}).items())
            operation = self._operation(session, request.statement, overlay)
            limit = int(operation.options["MAX_STATEMENT_LENGTH_BYTES"])
            # Before it is planned, "so that queries that take a long time to plan show up" on the pages
            # (ImpalaServer::ExecuteInternal).
            self._coordinator.register(operation)
            try:
                self._coordinator.load_metadata(operation)
                if len(request.statement.encode()) > limit:
                    size = len(request.statement.encode())
                    raise Refused(
                        f"Statement length of {size} bytes exceeds the maximum statement length ({limit} bytes)"
                    )
                text = statement(request.statement)
                analysed = Statement(self._coordinator, session, operation.id, operation.options, text)
                handle = self._start(operation, plan(analysed))
            except Exception as error:
                self._coordinator.refused(operation, error)
                if isinstance(error, StatementCancelled):
                    raise Refused(operation.error or "Cancelled") from None
                raise
            return t.TExecuteStatementResp(_ok(), handle)

    def _operation(self, session: Session, sql: str, overlay: dict[str, str]) -> Operation:
        effective = session.effective_options(overlay)
        return Operation(self._coordinator.services, session, sql, effective, self._connection.address)

    def _start(self, operation: Operation, made: Plan) -> Any:
        operation.start(made)
        operation.done.wait(_SOON)
        identifier = t.THandleIdentifier(operation.guid, operation.secret)
        return t.TOperationHandle(identifier, t.TOperationType.EXECUTE_STATEMENT, made.columns is not None)

    @_answers(t.TGetOperationStatusResp)
    def GetOperationStatus(self, request: Any) -> Any:
        """Its state, and its error if it has one."""
        with self._using(request) as operation:
            return t.TGetOperationStatusResp(
                _ok(),
                _STATES[operation.state],
                sqlState="HY000" if operation.error else None,
                errorMessage=operation.error,
            )

    @_answers(t.TGetResultSetMetadataResp)
    def GetResultSetMetadata(self, request: Any) -> Any:
        """Its columns."""
        with self._using(request) as operation:
            assert operation.plan is not None
            return t.TGetResultSetMetadataResp(_ok(), row_encoding.schema(operation.plan.columns or []))

    @_answers(t.TFetchResultsResp)
    def FetchResults(self, request: Any) -> Any:
        """Its next rows."""
        if request.orientation not in (t.TFetchOrientation.FETCH_NEXT, t.TFetchOrientation.FETCH_FIRST):
            raise Refused("Unsupported operation", "HYC00")
        with self._using(request) as operation:
            assert operation.plan is not None
            columns = operation.plan.columns or []
            offset, fetched, more = operation.fetch(max(1, request.maxRows or 1024))
            try:
                return t.TFetchResultsResp(_ok(), more, row_encoding.row_set(offset, fetched, columns))
            except Exception as error:
                operation.fail(str(failure(error).errorMessage))
                raise

    @_answers(t.TCancelOperationResp)
    def CancelOperation(self, request: Any) -> Any:
        """End it; the handle stays."""
        with self._using(request) as operation:
            operation.cancel()
            # The next call must not find it running.
            operation.done.wait(5)
            return t.TCancelOperationResp(_ok())

    @_answers(t.TCloseOperationResp)
    def CloseOperation(self, request: Any) -> Any:
        """Forget it."""
        with self._using(request) as operation:
            self._coordinator.unregister(operation)
            return t.TCloseOperationResp(_ok())

    @_answers(impala.TCloseImpalaOperationResp)
    def CloseImpalaOperation(self, request: Any) -> Any:
        """Forget it; the rows that it wrote, by partition."""
        with self._using(request) as operation:
            self._coordinator.unregister(operation)
            modified = operation.modified
            result = impala.TDmlResult(rows_modified=modified) if modified is not None else None
            return impala.TCloseImpalaOperationResp(_ok(), result)

    # -- log, summary and profile

    @_answers(t.TGetLogResp)
    def GetLog(self, request: Any) -> Any:
        """Its progress and warnings."""
        with self._using(request, closed_too=True) as operation:
            lines = list(operation.warnings)
            if operation.plan is not None and operation.plan.kind in ("QUERY", "DML"):
                lines.insert(0, operation.progress_line())
            return t.TGetLogResp(_ok(), "".join(f"{line}\n" for line in lines))

    @_answers(impala.TGetExecSummaryResp)
    def GetExecSummary(self, request: Any) -> Any:
        """Its nodes and progress."""
        with self._using(request, closed_too=True) as operation:
            done, total = operation.progress
            summary = TExecSummary(
                state=_EXEC_STATES[operation.state],
                nodes=exec_nodes(operation),
                progress=TExecProgress(total, done, 1, 0 if operation.running else 1),
                is_queued=False,
            )
            return impala.TGetExecSummaryResp(_ok(), summary)

    @_answers(impala.TGetRuntimeProfileResp)
    def GetRuntimeProfile(self, request: Any) -> Any:
        """Its profile, as text."""
        with self._using(request, closed_too=True) as operation:
            return impala.TGetRuntimeProfileResp(_ok(), profile_text(operation, self._coordinator.address))

    # -- metadata

    @_answers(t.TGetTypeInfoResp)
    def GetTypeInfo(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.types`."""
        return self._metadata(request, t.TGetTypeInfoResp, jdbc_metadata.types)

    @_answers(t.TGetCatalogsResp)
    def GetCatalogs(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.catalogs`."""
        return self._metadata(request, t.TGetCatalogsResp, jdbc_metadata.catalogs)

    @_answers(t.TGetSchemasResp)
    def GetSchemas(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.schemas`."""
        return self._metadata(request, t.TGetSchemasResp, jdbc_metadata.schemas)

    @_answers(t.TGetTablesResp)
    def GetTables(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.tables`."""
        return self._metadata(request, t.TGetTablesResp, jdbc_metadata.tables)

    @_answers(t.TGetTableTypesResp)
    def GetTableTypes(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.table_types`."""
        return self._metadata(request, t.TGetTableTypesResp, jdbc_metadata.table_types)

    @_answers(t.TGetColumnsResp)
    def GetColumns(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.columns`."""
        return self._metadata(request, t.TGetColumnsResp, jdbc_metadata.columns)

    @_answers(t.TGetFunctionsResp)
    def GetFunctions(self, request: Any) -> Any:
        """See :func:`jdbc_metadata.functions`."""
        return self._metadata(request, t.TGetFunctionsResp, jdbc_metadata.functions)

    @_answers(t.TGetDelegationTokenResp)
    def GetDelegationToken(self, request: Any) -> Any:
        """Refused, as by Impala."""
        raise Refused("Not implemented", "HYC00")

    @_answers(t.TCancelDelegationTokenResp)
    def CancelDelegationToken(self, request: Any) -> Any:
        """Refused, as by Impala."""
        raise Refused("Not implemented", "HYC00")

    @_answers(t.TRenewDelegationTokenResp)
    def RenewDelegationToken(self, request: Any) -> Any:
        """Refused, as by Impala."""
        raise Refused("Not implemented", "HYC00")

    def _metadata(self, request: Any, response: Any, work: jdbc_metadata.Work) -> Any:
        self._coordinator.check_not_shutting_down()
        with self._session(request) as session:
            operation = self._operation(session, work.__name__, {})
            made = work(self._coordinator.catalog.view(), request)
            self._coordinator.register(operation)
            handle = self._start(operation, made)
            return response(_ok(), handle)

    # -- handles

    def _session(self, request: Any) -> Any:
        return self._coordinator.using_session(*_identifier(request.sessionHandle.sessionId), self._connection)

    def _using(self, request: Any, closed_too: bool = False) -> Any:
        identifier = _identifier(request.operationHandle.operationId)
        return self._coordinator.using_operation(*identifier, self._connection, closed_too)


def _identifier(handle: Any) -> tuple[bytes, bytes]:
    if len(handle.guid) != 16 or len(handle.secret) != 16:
        raise Refused(
            f"Malformed THandleIdentifier (guid size: {len(handle.guid)}, expected 16, "
            f"secret size: {len(handle.secret)}, expected 16)"
        )
    return handle.guid, handle.secret
