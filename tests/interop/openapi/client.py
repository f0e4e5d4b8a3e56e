"""Drives a host by the client that openapi-python-client has made of its document."""

import base64
import json
import sys

generated, url, user, password, queue = sys.argv[1:]
sys.path.insert(0, generated)

from client import AuthenticatedClient  # noqa: E402
from client.api.jobs import jobs_add  # noqa: E402
from client.api.queues import queues_list, queues_show  # noqa: E402
from client.models import AddJob  # noqa: E402

token = base64.b64encode(f"{user}:{password}".encode()).decode()
client = AuthenticatedClient(base_url=url, token=token, prefix="Basic")
added = jobs_add.sync_detailed(queue, client=client, body=AddJob.from_dict({"name": "noop", "data": {}}))
unknown = queues_show.sync_detailed("nobodys", client=client)
queues = queues_list.sync_detailed(client=client)
print(json.dumps({"id": added.parsed.data.id, "code": unknown.parsed.code, "success": queues.parsed.success}))
