"""What schemathesis does not know by itself: the body of a pushed plugin is bytes like any other."""

import schemathesis

schemathesis.serializer.alias("application/wasm", "application/octet-stream")


@schemathesis.hook
def before_call(context, case, **kwargs):
    """Confirms every second request that asks for a confirmation with what is in its path."""
    names = [parameter.name for parameter in case.operation.query]
    if "confirm" in names and len(str(case.path_parameters)) % 2 == 0:
        values = list((case.path_parameters or {}).values())
        case.query = {**(case.query or {}), "confirm": str(values[-1]) if values else "all"}
