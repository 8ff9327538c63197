"""The set-up package: what a customer's Salesforce org needs from us, as metadata to deploy.

The files lie in ``metadata/`` in the form that the Metadata API wants, with placeholders for what is particular to one org.
From them come the zip for a deploy by REST, the same as a project for the Salesforce CLI, and the zip that takes it back.

https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_intro.htm
"""

import base64
import io
import json
import re
import shlex
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from string import Template
from urllib.parse import urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

API_VERSION = "67.0"
NAMESPACE = "http://soap.sforce.com/2006/04/metadata"
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
SCRT2_PERMISSION_SET = "SELECT Id FROM PermissionSet WHERE Name = 'sfdc_scrt2'"
FOLDER = Path(__file__).parent / "metadata"
APP_NAME, EVENT, CHANNEL_DEFINITION = "Infobip_BYOC", "Infobip_Event__e", "Infobip_WhatsApp"  # as the files are named

API_NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*")
EVENT_NAME = re.compile(rf"{API_NAME.pattern}__e")
ADDRESS = re.compile(r"(https://[A-Za-z0-9.-]+|http://(localhost|127\.0\.0\.1))(:\d+)?(/[A-Za-z0-9._~-]+)*/?")
PERSON = re.compile(r"[A-Za-z0-9.!#%&*+/=?^_{|}~-]+@[A-Za-z0-9.-]+")  # an e-mail address; a username looks like one


class Part(StrEnum):
    """The package in four deploys, each of which needs only the ones before it.

    Apart, because each meets switches and licences that an org may lack, and one refused component stops its whole deploy.
    """

    EVENT_AND_PERMISSIONS = "event-and-permissions"
    APP = "app"
    CHANNEL = "channel"
    CONSOLE_AND_ROUTING = "console-and-routing"

    @property
    def heading(self) -> str:
        """Name it for people; ``title`` is a method of every text."""
        return HEADINGS[self]


HEADINGS = {
    Part.EVENT_AND_PERMISSIONS: "Event and permissions",
    Part.APP: "External client app",
    Part.CHANNEL: "Messaging channel definition",
    Part.CONSOLE_AND_ROUTING: "Console page and routing",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is particular to one org.

    :raises ValueError: if a value cannot be used; the text names it
    """

    public_url: str
    frame_url: str  # the set-up page of this org, ending in /; its templates panel lies below it
    certificate_pem: str
    contact_email: str
    integration_username: str
    org_url: str = "https://login.salesforce.com"  # where its administrator signs in
    app_name: str = APP_NAME
    event: str = EVENT
    channel_definition: str = CHANNEL_DEFINITION
    label: str = "Infobip WhatsApp"  # of the tile under Messaging Settings
    # Reports differ on whether a definition for an org's own app may name a vendor, and on how it names the event's fields:
    # deploy as it stands, and where Salesforce refuses, try again without
    vendor_info: bool = True
    qualified_fields: bool = True

    def __post_init__(self) -> None:
        for name in ("public_url", "frame_url", "org_url"):
            if not ADDRESS.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is not a plain https address: {getattr(self, name)}")
        if not self.frame_url.endswith("/"):
            raise ValueError("frame_url does not end in a slash")
        for name in ("contact_email", "integration_username"):
            if not PERSON.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} does not have the form of an e-mail address: {getattr(self, name)}")
        for name in ("app_name", "channel_definition"):
            if not API_NAME.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is not an API name: {getattr(self, name)}")
        if not EVENT_NAME.fullmatch(self.event):
            raise ValueError(f"event is not the API name of a platform event: {self.event}")
        if not self.label.isprintable() or not self.label.strip():
            raise ValueError("label is empty or holds a character that cannot be shown")
        if self.app_name.split("_")[0] != self.channel_definition.split("_")[0]:  # Salesforce finds the app by this prefix
            raise ValueError("app_name and channel_definition do not begin with the same word before the underscore")
        certificate_body(self.certificate_pem)


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that the package puts into the org."""

    type: str
    full_name: str
    part: Part
    summary: str
    path: str  # in the form of the Metadata API; of a bundle, its folder
    template: str  # the same below metadata/

    @property
    def name(self) -> str:
        """Name it unmistakably; several types share a full name."""
        return f"{self.type}:{self.full_name}"


# folders and suffixes: the registry of https://github.com/forcedotcom/source-deploy-retrieve; the capitals are theirs
PATHS = {
    "CustomObject": "objects/{}.object",
    "PermissionSet": "permissionsets/{}.permissionset",
    "ExternalClientApplication": "externalClientApps/{}.eca",
    "ExtlClntAppGlobalOauthSettings": "extlClntAppGlobalOauthSets/{}.ecaGlblOauth",
    "ExtlClntAppOauthSettings": "extlClntAppOauthSettings/{}.ecaOauth",
    "ExtlClntAppOauthConfigurablePolicies": "extlClntAppOauthPolicies/{}.ecaOauthPlcy",
    "ExtlClntAppConfigurablePolicies": "extlClntAppPolicies/{}.ecaPlcy",
    "ConversationVendorInfo": "ConversationVendorInformation/{}.ConversationVendorInformation",
    "ConversationChannelDefinition": "conversationChannelDefinitions/{}.ConversationChannelDefinition",
    "AuraDefinitionBundle": "aura/{}",
    "FlexiPage": "flexipages/{}.flexipage",
    "CustomTab": "tabs/{}.tab",
    "CspTrustedSite": "cspTrustedSites/{}.cspTrustedSite",
    "Settings": "settings/{}.settings",
    "QueueRoutingConfig": "queueRoutingConfigs/{}.queueRoutingConfig",
    "Queue": "queues/{}.queue",
    "Flow": "flows/{}.flow",
    "ServicePresenceStatus": "servicePresenceStatuses/{}.servicePresenceStatus",
    "PresenceUserConfig": "presenceUserConfigs/{}.presenceUserConfig",
}

# Each after what it needs. What reps and administrators see comes in sets of its own: a deploy replaces a permission set
# as a whole, so that one in two parts would lose the other part's access whenever a part is repeated.
CONTENTS: dict[Part, list[tuple[str, str, str]]] = {
    Part.EVENT_AND_PERMISSIONS: [
        ("CustomObject", "{event}", "Platform event {event} with two fields, which carries what reps write"),
        ("PermissionSet", "Infobip_Connector", "Permission set of the integration user"),
        ("PermissionSet", "Infobip_Agent", "Permission set of reps: may sign in to the templates panel"),
        ("PermissionSet", "Infobip_Admin", "Permission set of administrators: may sign in to this set-up"),
    ],
    Part.APP: [
        ("ExternalClientApplication", "{app}", "External client app {app}"),
        ("ExtlClntAppGlobalOauthSettings", "{app}_glbl", "Our certificate and the address where signing in ends"),
        ("ExtlClntAppOauthSettings", "{app}_oauth", "What the app may ask for: API, messaging, signing in"),
        ("ExtlClntAppOauthConfigurablePolicies", "{app}_oauthPlcy", "Who may use the app: three permission sets only"),
        ("ExtlClntAppConfigurablePolicies", "{app}_plcy", "The app switched on"),
    ],
    Part.CHANNEL: [
        ("ConversationVendorInfo", "Infobip", "Infobip as a vendor of messaging channels"),
        ("ConversationChannelDefinition", "{channel}", "Channel definition {channel}: the tile for a new channel"),
    ],
    Part.CONSOLE_AND_ROUTING: [
        ("Settings", "OmniChannel", "Omni-Channel switched on, with automatic login"),
        ("AuraDefinitionBundle", "InfobipFrame", "Frame that shows our pages inside Salesforce"),
        ("FlexiPage", "Infobip_BYOC_Configuration", "Page with this set-up"),
        ("CustomTab", "Infobip_BYOC_Configuration", "Tab that opens the page"),
        ("CspTrustedSite", "Infobip_Connector", "Our address as one that may be shown in a frame"),
        ("QueueRoutingConfig", "Infobip_Routing", "Routing configuration: most available rep first, one unit each"),
        ("Queue", "Infobip_Messaging", "Queue for messaging sessions"),
        ("Flow", "Infobip_Route_Session", "Flow that puts each new session into the queue"),
        ("ServicePresenceStatus", "Infobip_Messaging_Online", "Presence status Online for Messaging"),
        ("PresenceUserConfig", "Infobip_Messaging", "Presence configuration with a capacity of 10"),
        ("PermissionSet", "Infobip_Presence", "Permission set of reps: may go online for messaging"),
        ("PermissionSet", "Infobip_Configuration", "Permission set of administrators: sees the tab"),
    ],
}


def components(settings: Settings) -> list[Component]:
    """List what the package holds for this org, each component after those that it needs."""
    here = {"app": settings.app_name, "event": settings.event, "channel": settings.channel_definition}
    on_disk = {"app": APP_NAME, "event": EVENT, "channel": CHANNEL_DEFINITION}
    return [
        Component(
            type=kind,
            full_name=name.format(**here),
            part=part,
            summary=summary.format(**here),
            path=PATHS[kind].format(name.format(**here)),
            template=PATHS[kind].format(name.format(**on_disk)),
        )
        for part, rows in CONTENTS.items()
        for kind, name, summary in rows
        if settings.vendor_info or kind != "ConversationVendorInfo"
    ]


def metadata_zip(settings: Settings, parts: Collection[Part]) -> bytes:
    """Pack the components of some parts for ``deployRequest``; the same input gives the same bytes."""
    chosen = [each for each in components(settings) if each.part in parts]
    files = {"package.xml": _manifest(chosen)}
    for component in chosen:
        files |= _files(settings, component)
    return _zip(files)


def source_zip(settings: Settings) -> bytes:
    """Pack everything as a project for the Salesforce CLI, with the commands to run in its README."""
    everything = components(settings)
    project = {
        "packageDirectories": [{"path": "force-app", "default": True}],
        "namespace": "",
        "sfdcLoginUrl": settings.org_url,
        "sourceApiVersion": API_VERSION,
    }
    manifests = {part: f"manifest/{number}-{part}.xml" for number, part in enumerate(Part, 1)}
    files = {
        "README.md": _readme(settings, manifests),
        "sfdx-project.json": json.dumps(project, indent=2) + "\n",
        "manifest/package.xml": _manifest(everything),
    }
    for part, path in manifests.items():
        files[path] = _manifest([each for each in everything if each.part is part])
    for component in everything:
        for path, text in _source_files(component, _files(settings, component)):
            files[f"force-app/main/default/{path}"] = text
    return _zip(files)


def undo_zip(settings: Settings, names: Iterable[str], *, flow_versions: Sequence[int] = (1,)) -> bytes:
    """Pack a deploy that removes components, each kind before those that it needs.

    Org settings stay: Salesforce cannot remove them, and switching Omni-Channel off would stop other channels. A flow is
    removed version by version, once it is deactivated; its bare name would make Salesforce refuse the whole deploy.
    Permission sets go once nobody holds them.

    :param names: ``Component.name`` of each
    :param flow_versions: the versions of the flow that the org has
    :raises ValueError: if the package holds no component of that name
    """
    known = {each.name: each for each in components(settings)}
    wanted = set(names)
    if unknown := wanted - known.keys():
        raise ValueError(f"not in the package: {', '.join(sorted(unknown))}")
    members: dict[str, list[str]] = {}
    for name, component in known.items():
        if name in wanted and component.type != "Settings":
            versions = [f"-{version}" for version in flow_versions] if component.type == "Flow" else [""]
            members.setdefault(component.type, []).extend(component.full_name + version for version in versions)
    backwards = dict(reversed(members.items()))
    return _zip({"package.xml": _package({}), "destructiveChanges.xml": _package(backwards)})


def object_permissions_for_scrt2(settings: Settings, permission_set_id: str) -> dict[str, object]:
    """Give the row of ``ObjectPermissions`` that lets Salesforce's messaging service publish our event.

    By REST and not in the package: that permission set is Salesforce's own, and a deploy replaces a permission set as a
    whole, with everything else that Salesforce or the org granted in it. One more row changes nothing else.

    :param permission_set_id: what ``SCRT2_PERMISSION_SET`` finds
    """
    return {
        "ParentId": permission_set_id,
        "SobjectType": settings.event,
        "PermissionsRead": True,
        "PermissionsCreate": True,
    }


def certificate_body(pem: str) -> str:
    """Give a certificate as metadata wants it: base64 on one line, without the lines that begin and end a PEM file.

    :raises ValueError: if it is no certificate, such as a private key
    """
    return base64.b64encode(load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)).decode()


def _values(settings: Settings) -> dict[str, str]:
    """Name what the placeholders stand for."""
    public, frame = settings.public_url.rstrip("/"), urlsplit(settings.frame_url)
    prefix = f"{settings.event}." if settings.qualified_fields else ""
    return {
        "api_version": API_VERSION,
        "app_label": settings.app_name.replace("_", " "),  # Salesforce derives the one from the other
        "app_name": settings.app_name,
        "callback_url": f"{public}/sf/callback",
        "certificate": certificate_body(settings.certificate_pem),
        "channel_definition": settings.channel_definition,
        "contact_email": settings.contact_email,
        "event": settings.event,
        "event_label": settings.event.removesuffix("__e").replace("_", " "),
        "event_type_field": f"{prefix}EventType__c",
        "frame_origin": f"{frame.scheme}://{frame.netloc}",
        "frame_url": settings.frame_url,
        "label": settings.label,
        "org_url": settings.org_url,
        "payload_field": f"{prefix}Payload__c",
        "public_url": public,
        "templates_url": f"{settings.frame_url}templates",
    }


def _files(settings: Settings, component: Component) -> dict[str, str]:
    """Fill in a component's files, by their paths in the form of the Metadata API."""
    values = {name: escape(value, {'"': "&quot;"}) for name, value in _values(settings).items()}
    place = FOLDER / component.template
    sources = sorted(place.iterdir()) if place.is_dir() else [place]
    files = {}
    for source in sources:
        text = Template(source.read_text(encoding="utf-8")).substitute(values)
        if not settings.vendor_info:
            text = re.sub(r"\n *<conversationVendorInfo>.*</conversationVendorInfo>", "", text)
        files[f"{component.path}/{source.name}" if place.is_dir() else component.path] = text
    return files


def _source_files(component: Component, files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Turn a component's files into those of a project for the Salesforce CLI."""
    if component.type == "CustomObject":
        yield from _split_object(component, files[component.path])
    elif component.type == "AuraDefinitionBundle":
        yield from files.items()
    else:
        yield from ((f"{path}-meta.xml", text) for path, text in files.items())


def _split_object(component: Component, text: str) -> Iterator[tuple[str, str]]:
    """Give an object and each of its fields a file."""
    whole = ElementTree.fromstring(text)
    folder = f"objects/{component.full_name}"
    for field in whole.findall(f"{{{NAMESPACE}}}fields"):
        whole.remove(field)
        field.tag = f"{{{NAMESPACE}}}CustomField"
        yield f"{folder}/fields/{field.findtext(f'{{{NAMESPACE}}}fullName')}.field-meta.xml", _written(field)
    yield f"{folder}/{component.full_name}.object-meta.xml", _written(whole)


def _written(root: ElementTree.Element) -> str:
    ElementTree.indent(root, "    ")
    root.tail = "\n"
    return XML + ElementTree.tostring(root, encoding="unicode", default_namespace=NAMESPACE)


def _manifest(chosen: Iterable[Component]) -> str:
    members: dict[str, list[str]] = {}
    for component in chosen:
        members.setdefault(component.type, []).append(component.full_name)
    return _package(members)


def _package(members: dict[str, list[str]]) -> str:
    """Write a list of components by their type, for deploying or for removing them."""
    lines = [f'<Package xmlns="{NAMESPACE}">']
    for kind, names in members.items():
        lines += ["    <types>", *(f"        <members>{name}</members>" for name in names)]
        lines += [f"        <name>{kind}</name>", "    </types>"]
    return XML + "\n".join([*lines, f"    <version>{API_VERSION}</version>", "</Package>", ""])


def _readme(settings: Settings, manifests: dict[Part, str]) -> str:
    deploy = "sf project deploy start --target-org infobip --manifest"
    steps = "\n".join(f"{n}. {part.heading}: `{deploy} {path}`" for n, (part, path) in enumerate(manifests.items(), 1))
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    user = shlex.quote(settings.integration_username)  # it stands in a command that somebody will run
    return Template(text).substitute(_values(settings), integration_username=user, steps=steps)


def _zip(files: dict[str, str]) -> bytes:
    """Pack files so that the same files give the same bytes: uncompressed, of no particular time."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, text.encode())
    return whole.getvalue()


APP_TYPES = frozenset(kind for kind, _, _ in CONTENTS[Part.APP])
CHANNEL_TYPES = frozenset(kind for kind, _, _ in CONTENTS[Part.CHANNEL])
ROUTING_TYPES = frozenset(
    {"Settings", "QueueRoutingConfig", "Queue", "Flow", "ServicePresenceStatus", "PresenceUserConfig"}
)
ANY_TYPE: frozenset[str] = frozenset()

OFF = r"not available|not (been )?enabled|is unknown"
AGAIN = "then install this step again."
EVENT_STEP, APP_STEP = f"the step “{HEADINGS[Part.EVENT_AND_PERMISSIONS]}”", f"the step “{HEADINGS[Part.APP]}”"
SECRETS = "“Allow access to External Client App consumer secrets via Metadata API”"

# The first that fits is told. Salesforce documents few of its sentences and changes them: these look for the telling words.
PROBLEMS: list[tuple[frozenset[str], str, str]] = [
    (
        ANY_TYPE,
        r"UNKNOWN_EXCEPTION|unexpected error",
        "Salesforce failed on its side. Install this step again in a few minutes; if it stays, give Salesforce Support the"
        " number in its message.",
    ),
    (
        APP_TYPES,
        r"valid OAuth settings configuration",
        f"Salesforce did not get all files of the external client app at once. Install {APP_STEP} again as a whole.",
    ),
    (
        APP_TYPES,
        r"permission ?set",
        f"The app admits three permission sets, and one of them is missing. Install {EVENT_STEP} first, {AGAIN}",
    ),
    (
        APP_TYPES,
        r"INVALID_CROSS_REFERENCE_KEY|no ExternalClientApplication named",
        "A file of the external client app names an app that is not there. Its files belong together and keep their names:"
        f" install {APP_STEP} again as a whole, from a fresh package.",
    ),
    (
        APP_TYPES,
        r"consumer ?(key|secret)|secrets\b",
        f"In Setup, External Client Apps, Settings, switch on {SECRETS}, {AGAIN}",
    ),
    (
        APP_TYPES,
        rf"{OFF}|opt.?in\b",
        "External client apps are off in this org. In Setup, External Client Apps, Settings, switch on “Opt in to External"
        f" Client Apps” and {SECRETS}, {AGAIN}",
    ),
    (
        CHANNEL_TYPES,
        rf"{OFF}|licen[cs]e|add-?on",
        "This org lacks a licence: it needs Digital Engagement and the Partner Messaging add-on. Ask your Salesforce"
        f" account executive, {AGAIN}",
    ),
    (
        CHANNEL_TYPES,
        r"vendor ?info",
        "This org does not take vendor info beside an app of its own. Install this step again without vendor info.",
    ),
    (
        CHANNEL_TYPES,
        r"custom ?event|platform ?event|EventType__c|Payload__c|__e\b",
        f"Salesforce does not find the platform event or its fields. Install {EVENT_STEP} first; if it is installed,"
        " install this step again with the names of the fields alone, without the event's name before them.",
    ),
    (
        CHANNEL_TYPES,
        r"connected ?app|client ?app|oauth",
        "Salesforce does not find the app of this channel definition: it looks for one whose name begins with the same"
        f" word. Install {APP_STEP} first; a new app can take up to 30 minutes to be found.",
    ),
    (
        frozenset({"Flow"}),
        r"insufficient access rights on cross-reference id|(delet|remov).*\bactive|\bactive.*(delet|remov)",
        "Salesforce does not remove a flow that is active. In Setup, Flows, deactivate “Infobip Route Session”, then try"
        " again.",
    ),
    (
        frozenset({"Flow"}),
        r"activ",
        "The flow was not switched on. In Setup, Flows, activate “Infobip Route Session”; or switch on “Deploy processes"
        f" and flows as active” under Process Automation Settings, {AGAIN}",
    ),
    (
        ROUTING_TYPES | {"PermissionSet"},
        r"sfdc_livemessage|service ?channel|Messaging ?(Session|EndUser)",
        "This org does not know messaging yet. In Setup, switch on Messaging under Messaging Settings (it needs Digital"
        f" Engagement) and Omni-Channel under Omni-Channel Settings, {AGAIN}",
    ),
    (
        ROUTING_TYPES,
        OFF,
        f"Omni-Channel is off in this org. In Setup, Omni-Channel Settings, switch it on (it needs Service Cloud), {AGAIN}",
    ),
    (
        ANY_TYPE,
        r"could not infer a metadata type",
        "The Salesforce CLI did not recognise a file. Deploy with “--manifest manifest/package.xml”, and keep the capitals"
        " in the names of folders and files as they are.",
    ),
    (
        ANY_TYPE,
        r"found in zipped directory|named in package\.xml",
        "The package is incomplete. Download it again, and do not take files out of it.",
    ),
    (
        ANY_TYPE,
        r"DUPLICATE_(DEVELOPER_NAME|VALUE)|duplicate value|already (exists|in use)",
        f"The org has another component of this name. Rename or remove that one in Setup, {AGAIN}",
    ),
    (
        ANY_TYPE,
        r"INSUFFICIENT_ACCESS|insufficient (access|privileges)|Modify ?Metadata|Customize ?Application",
        "You may not change this org's metadata. Sign in as a system administrator: it takes “Modify Metadata Through"
        " Metadata API Functions” (or “Modify All Data”) and “Customize Application”.",
    ),
    (
        ANY_TYPE,
        r"no (?P<type>\w+) named (?P<name>\S+) found",
        r"It needs “\g<name>” (\g<type>), which this org does not have. Install the steps before this one first.",
    ),
]


def explain(problem: str, component_type: str) -> str:
    """Say in an administrator's words why Salesforce refused a component and what to do; else in Salesforce's own words.

    :param component_type: ``componentType`` of the failure; empty where it concerns the deploy as a whole
    """
    for types, pattern, sentence in PROBLEMS:
        found = re.search(pattern, problem, re.IGNORECASE)
        if found and (not types or component_type in types):
            return found.expand(sentence)
    return problem.strip() or "Salesforce refused it and gave no reason."
