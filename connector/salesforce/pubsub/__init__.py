"""Messages of the Pub/Sub API (package ``eventbus.v1``), built from descriptors when this module is imported.

Only what we and the sandbox use is declared; field names and numbers are those of the published definition, so the
wire format is the same: https://developer.salesforce.com/docs/platform/pub-sub-api. Descriptors of our own need no
generated code, whose version would be tied to that of protobuf, and a pool of our own keeps them apart from other
definitions of the same package in one process.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "eventbus.v1.PubSub"
LATEST, EARLIEST, CUSTOM = range(3)  # enum ReplayPreset

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
}
# message -> (kind, field), in the order of the field numbers, which start at 1; a trailing * means repeated
_MESSAGES = {
    "TopicRequest": [("string", "topic_name")],
    "TopicInfo": [
        ("string", "topic_name"),
        ("string", "tenant_guid"),
        ("bool", "can_publish"),
        ("bool", "can_subscribe"),
        ("string", "schema_id"),
        ("string", "rpc_id"),
    ],
    "EventHeader": [("string", "key"), ("bytes", "value")],
    "ProducerEvent": [("string", "id"), ("string", "schema_id"), ("bytes", "payload"), ("EventHeader*", "headers")],
    "ConsumerEvent": [("ProducerEvent", "event"), ("bytes", "replay_id")],
    "FetchRequest": [
        ("string", "topic_name"),
        ("ReplayPreset", "replay_preset"),
        ("bytes", "replay_id"),
        ("int32", "num_requested"),
        ("string", "auth_refresh"),
    ],
    "FetchResponse": [
        ("ConsumerEvent*", "events"),
        ("bytes", "latest_replay_id"),
        ("string", "rpc_id"),
        ("int32", "pending_num_requested"),
    ],
    "SchemaRequest": [("string", "schema_id")],
    "SchemaInfo": [("string", "schema_json"), ("string", "schema_id"), ("string", "rpc_id")],
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="connector/pubsub.proto", package="eventbus.v1", syntax="proto3")
    preset = file.enum_type.add(name="ReplayPreset")
    for number, name in enumerate(["LATEST", "EARLIEST", "CUSTOM"]):
        preset.value.add(name=name, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (kind, field_name) in enumerate(fields, start=1):
            field = message.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind in _KINDS:
                field.type = _KINDS[kind]
            else:
                field.type = _Field.TYPE_ENUM if kind == "ReplayPreset" else _Field.TYPE_MESSAGE
                field.type_name = f".eventbus.v1.{kind}"
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"eventbus.v1.{name}"))


TopicRequest = _class("TopicRequest")
TopicInfo = _class("TopicInfo")
ProducerEvent = _class("ProducerEvent")
ConsumerEvent = _class("ConsumerEvent")
FetchRequest = _class("FetchRequest")
FetchResponse = _class("FetchResponse")
SchemaRequest = _class("SchemaRequest")
SchemaInfo = _class("SchemaInfo")
