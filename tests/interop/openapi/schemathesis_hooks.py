"""What schemathesis does not know by itself: the body of a pushed plugin is bytes like any other."""

import schemathesis

schemathesis.serializer.alias("application/wasm", "application/octet-stream")
