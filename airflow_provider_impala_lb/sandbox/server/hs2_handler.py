"""The HS2 calls of one connection, on impyla's generated code."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from impala._thrift_gen.ImpalaService import ImpalaHiveServer2Service as service  # noqa: TID253 (node only)
from impala._thrift_gen.ImpalaService import ttypes as impala  # noqa: TID253
from impala._thrift_gen.TCLIService import ttypes as t  # noqa: TID253

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.coordinator.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.ids import printed
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation
from airflow_provider_impala_lb.sandbox.coordinator.profile import exec_summary, profile_text, progress_line
from airflow_provider_impala_lb.sandbox.coordinator.query_log import QueryRecord
from airflow_provider_impala_lb.sandbox.coordinator.session import Connection
from airflow_provider_impala_lb.sandbox.coordinator.statements import QueryDriver
from airflow_provider_impala_lb.sandbox.server import jdbc_metadata, row_encoding

_STATES = {
    "INITIALIZED": t.TOperationState.INITIALIZED_STATE,
    "PENDING": t.TOperationState.PENDING_STATE,
    "RUNNING": t.TOperationState.RUNNING_STATE,
    "FINISHED": t.TOperationState.FINISHED_STATE,
    "ERROR": t.TOperationState.ERROR_STATE,
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
                return response(status=self._failure(error, request))

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

    def _failure(self, error: Exception, request: Any) -> Any:
        """The status that tells of an error; newer servers name the statement (``HS2_RETURN_ERROR``)."""
        status = failure(error)
        query_id = getattr(error, "query_id", "")
        handle = getattr(request, "operationHandle", None)
        if handle is not None and len(handle.operationId.guid) == 16:
            query_id = printed(handle.operationId.guid)
        if query_id and self._coordinator.behaviour.names_query_in_error:
            status.errorMessage = f"Query {query_id} failed:\n{status.errorMessage}\n"
        return status

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

    # infoValue is required, and Impala's C++ writes it in an error, too.
    @_answers(functools.partial(t.TGetInfoResp, infoValue=t.TGetInfoValue()))
    def GetInfo(self, request: Any) -> Any:
        """Name and version of the server."""
        self._coordinator.check_not_shutting_down()
        with self._session(request):
            names = {
                t.TGetInfoType.CLI_SERVER_NAME: "Impala",
                t.TGetInfoType.CLI_DBMS_NAME: "Impala",
                t.TGetInfoType.CLI_DBMS_VER: self._coordinator.version,
            }
            if request.infoType not in names:
                raise Refused("Unsupported operation", "HYC00")
            return t.TGetInfoResp(_ok(), t.TGetInfoValue(stringValue=names[request.infoType]))

    @_answers(impala.TPingImpalaHS2ServiceResp)
    def PingImpalaHS2Service(self, request: Any) -> Any:
        """Version and web address of the server; impala-shell asks for them."""
        with self._session(request):
            web = f"http://{self._coordinator.web_address}"
            return impala.TPingImpalaHS2ServiceResp(_ok(), version=self._coordinator.version, webserver_address=web)

    # -- statements

    @_answers(t.TExecuteStatementResp)
    def ExecuteStatement(self, request: Any) -> Any:
        """Plan a statement and begin it."""
        self._coordinator.check_not_shutting_down()
        with self._session(request) as session:
            overlay = dict(query_options.checked(*each) for each in (request.confOverlay or {}).items())
            operation = self._coordinator.execute(session, request.statement, overlay, self._connection.address)
            return t.TExecuteStatementResp(_ok(), self._handle(operation))

    def _handle(self, operation: Operation) -> Any:
        operation.done.wait(_SOON)
        identifier = t.THandleIdentifier(operation.guid, operation.secret)
        assert operation.plan is not None
        return t.TOperationHandle(identifier, t.TOperationType.EXECUTE_STATEMENT, operation.plan.columns is not None)

    @_answers(t.TGetOperationStatusResp)
    def GetOperationStatus(self, request: Any) -> Any:
        """Its state, and its error if it has one. It does not keep the statement from its QUERY_TIMEOUT_S."""
        try:
            with self._using(request) as driver:
                operation = driver.active
                error = operation.error if operation.state == "ERROR" else None
                if error is not None and self._coordinator.behaviour.names_query_in_error:
                    error = f"Query {driver.original.id} failed:\n{error}\n"
                return t.TGetOperationStatusResp(
                    _ok(), _STATES[operation.state], sqlState="HY000" if error else None, errorMessage=error
                )
        except Refused as refused:
            state = t.TOperationState.ERROR_STATE if self._coordinator.behaviour.cancels_planning else None
            return t.TGetOperationStatusResp(self._failure(refused, request), state)

    @_answers(t.TGetResultSetMetadataResp)
    def GetResultSetMetadata(self, request: Any) -> Any:
        """Its columns."""
        with self._using(request) as driver:
            made = driver.active.plan
            assert made is not None
            return t.TGetResultSetMetadataResp(_ok(), row_encoding.schema(made.columns or []))

    @_answers(t.TFetchResultsResp)
    def FetchResults(self, request: Any) -> Any:
        """Its next rows. What fails here is unregistered (``ImpalaServer::FetchResults``)."""
        if request.orientation not in (t.TFetchOrientation.FETCH_NEXT, t.TFetchOrientation.FETCH_FIRST):
            raise Refused("Unsupported operation", "HYC00")
        with self._using(request) as driver:
            operation = driver.active
            assert operation.plan is not None
            columns = operation.plan.columns or []
            try:
                found = operation.fetch(max(1, request.maxRows or 1024))
                if found is None:
                    return t.TFetchResultsResp(t.TStatus(statusCode=t.TStatusCode.STILL_EXECUTING_STATUS), True)
                offset, fetched, more = found
                return t.TFetchResultsResp(_ok(), more, row_encoding.row_set(offset, fetched, columns))
            except Exception as error:
                operation.fail(str(failure(error).errorMessage))
                self._coordinator.statements.unregister_quietly(driver, str(failure(error).errorMessage))
                raise

    @_answers(t.TCancelOperationResp)
    def CancelOperation(self, request: Any) -> Any:
        """End it; the handle stays."""
        with self._using(request) as driver:
            self._coordinator.check_cancellable(driver)
            driver.active.cancel()
            return t.TCancelOperationResp(_ok())

    @_answers(t.TCloseOperationResp)
    def CloseOperation(self, request: Any) -> Any:
        """Forget it."""
        with self._using(request) as driver:
            self._forget(driver)
            return t.TCloseOperationResp(_ok())

    @_answers(impala.TCloseImpalaOperationResp)
    def CloseImpalaOperation(self, request: Any) -> Any:
        """Forget it; the rows that it wrote, by partition."""
        with self._using(request) as driver:
            operation = driver.active
            modified = operation.modified if operation.error is None else None
            result = impala.TDmlResult(rows_modified=modified) if modified is not None else None
            self._forget(driver)
            return impala.TCloseImpalaOperationResp(_ok(), result)

    def _forget(self, driver: QueryDriver) -> None:
        self._coordinator.check_cancellable(driver, finalizes=True)
        self._coordinator.statements.unregister(driver)

    # -- log, summary and profile

    @_answers(t.TGetLogResp)
    def GetLog(self, request: Any) -> Any:
        """Its progress, its error, warnings, and why it waits (``ImpalaServer::GetLog``)."""
        with self._using(request) as driver:
            operation = driver.active
            text = f"{progress_line(operation)}\n" if operation.has_coordinator else ""
            if driver.retried is not None:
                text += f"Original query failed:\n{driver.original.error}\nQuery has been retried using query id: "
                text += f"{driver.retried.id}\n"
            if operation.state == "ERROR":
                error = operation.error or ""
                named = self._coordinator.behaviour.names_query_in_error
                text += f"Query {operation.id} failed:\n{error}\n" if named else f"{error}\n"
            text += "".join(f"{line}\n" for line in operation.warnings)
            if operation.admission is not None and operation.admission.queued and not operation.has_coordinator:
                text += "Admission result : Queued\n"
                text += f"Latest admission queue reason : {operation.admission.reason}\n"
            return t.TGetLogResp(_ok(), text)

    @_answers(impala.TGetExecSummaryResp)
    def GetExecSummary(self, request: Any) -> Any:
        """Its nodes and progress; also of one that is in the query log."""
        kept = self._kept(request)
        if kept is not None:
            return impala.TGetExecSummaryResp(_ok(), kept.summary)
        with self._using(request, closed_too=True) as driver:
            return impala.TGetExecSummaryResp(_ok(), exec_summary(driver.active))

    @_answers(impala.TGetRuntimeProfileResp)
    def GetRuntimeProfile(self, request: Any) -> Any:
        """Its profile, as text; also of one that is in the query log."""
        kept = self._kept(request)
        if kept is not None:
            return impala.TGetRuntimeProfileResp(_ok(), kept.profile)
        with self._using(request, closed_too=True) as driver:
            return impala.TGetRuntimeProfileResp(_ok(), profile_text(driver.active, self._coordinator.address))

    def _kept(self, request: Any) -> QueryRecord | None:
        guid, _ = _identifier(request.operationHandle.operationId)
        return self._coordinator.statements.log.find(printed(guid))

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
            address, options = self._connection.address, session.effective_options()
            operation = Operation(self._coordinator.services, session, work.__name__, options, address)
            view = self._coordinator.catalog.view()
            self._coordinator.begin(operation, lambda: work(view, request))
            return response(_ok(), self._handle(operation))

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
