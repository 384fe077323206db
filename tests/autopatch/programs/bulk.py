"""A user's program: documents sent to a search engine in parallel; the answers come from no network."""
# mypy: ignore-errors

import json

from elastic_transport import ApiResponseMeta, BaseNode, HttpHeaders, TransportApiResponse
from elasticsearch import Elasticsearch
from elasticsearch.helpers import parallel_bulk


class Answering(BaseNode):
    def perform_request(self, method, target, body=None, headers=None, request_timeout=None):
        numbers = [json.loads(line)["index"]["_id"] for line in body.splitlines()[::2]]
        items = [{"index": {"_id": number, "status": 201}} for number in numbers]
        headers = HttpHeaders({"content-type": "application/json", "x-elastic-product": "Elasticsearch"})
        meta = ApiResponseMeta(status=200, http_version="1.1", headers=headers, duration=0.0, node=self.config)
        return TransportApiResponse(meta, json.dumps({"errors": False, "items": items}).encode())

    def close(self):
        pass


if __name__ == "__main__":
    client = Elasticsearch("http://localhost:9200", node_class=Answering)
    actions = ({"_index": "numbers", "_id": str(number), "number": number} for number in range(500))
    for stored, item in parallel_bulk(client, actions, thread_count=2, chunk_size=20):
        print(stored, item)
