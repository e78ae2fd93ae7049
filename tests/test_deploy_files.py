"""What the deployment files and the service's manual say must hold, without an engine that could run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import typer
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from reviewmill.chat import install
from reviewmill.chat.environment import Wiring
from reviewmill.chat.environment import environment as chat_environment
from reviewmill.chat.place import Secrets
from reviewmill.chat.programs import origins
from reviewmill.cli.chat import KEY_VARIABLE, PASSWORD_VARIABLE, TOKEN_VARIABLE
from reviewmill.cli.main import program as reviewmill_program
from reviewmill.server.app import ROUTERS
from reviewmill.server.metrics import Metrics
from reviewmill.server.problems import TYPE_PREFIX
from reviewmill.settings import ChatSettings, ServiceSettings, Settings, load_settings
from reviewmill.store import database_url

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MANUAL = ROOT / "docs" / "service.md"
CHAT_MANUAL = ROOT / "docs" / "chat.md"
FILES = ["Dockerfile", "compose.yaml", "reviewmill.service", "reviewmill.toml", "Caddyfile", "secrets.sh"]
PULLED = re.compile(r"(?:[a-z0-9.-]+/)*[a-z0-9.-]+:v?\d+\.\d+(?:\.\d+)?[a-z0-9.-]*(?:@sha256:[0-9a-f]{64})?")
"""An image by its exact version: `latest`, `17` or `alpine` would be another one tomorrow."""


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("REVIEWMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_: tmp_path / "no-configuration")


# --- what they name exists --------------------------------------------------------------------------------------------


CHAT_VARIABLES = {KEY_VARIABLE, TOKEN_VARIABLE, PASSWORD_VARIABLE, "REVIEWMILL_CHAT_SERVICE", "REVIEWMILL_CHAT_KEY"}
"""Those of the chat that are no settings: secrets, and what the action that corrects labels reads."""


def is_setting(variable: str) -> bool:
    name = variable.removeprefix("REVIEWMILL_").lower()
    if variable in CHAT_VARIABLES:
        return True
    if name.startswith("chat__"):
        return name.removeprefix("chat__") in ChatSettings.model_fields
    if name.startswith("service__"):
        return name.removeprefix("service__") in ServiceSettings.model_fields
    return name == "config" or (name in Settings.model_fields and name != "service")


@pytest.mark.parametrize("path", [*(DEPLOY / name for name in FILES), MANUAL, CHAT_MANUAL], ids=lambda path: path.name)
def test_every_variable_that_is_named_is_a_setting(path):
    unknown = {name for name in re.findall(r"REVIEWMILL_\w+", path.read_text()) if not is_setting(name)}
    assert not unknown


@pytest.mark.parametrize("path", [*(DEPLOY / name for name in FILES), MANUAL, CHAT_MANUAL], ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path):
    for line in command_lines(path.read_text()):
        check_command(shlex.split(line, comments=True))


def command_lines(text: str) -> list[str]:
    """What is said to `reviewmill`: after its name, or after the image's, whose entry point it is."""
    said = re.findall(
        r"(?:^|[\s/`$])reviewmill ((?:serve|keys|models|tasks|doctor|analyze)\b[^\n`&|>#]*)", text, re.MULTILINE
    )
    return [line.rstrip("\\ ") for line in said]


def check_command(words: list[str]) -> None:
    command = typer.main.get_command(reviewmill_program())
    options: dict[str, object] = {"--help": None}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{words}: no {word}"
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
            options = {"--help": None} | {name: option for option in command.params for name in option.opts}
    assert not hasattr(command, "commands"), f"{words} is no whole command"


def test_commands_are_found_and_wrong_ones_noticed():
    assert command_lines("docker run reviewmill keys create me --scope jobs\n") == ["keys create me --scope jobs"]
    with pytest.raises(AssertionError):
        check_command(["keys", "create", "me", "--no-such-option"])
    with pytest.raises(AssertionError):
        check_command(["keys"])


def test_no_file_is_forgotten():
    there = {path.name for path in DEPLOY.iterdir() if path.is_file()}
    assert there == set(FILES)


# --- Dockerfile -------------------------------------------------------------------------------------------------------


@cache
def stages() -> tuple[list[tuple[str, str]], list[list[tuple[str, str]]]]:
    """What stands before the first FROM, and the instructions of each stage."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    instructions = [(line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in lines]
    found: list[list[tuple[str, str]]] = [[]]
    for instruction in instructions:
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found[0], found[1:]


def last_stage(name: str) -> list[str]:
    return [rest for instruction, rest in stages()[1][-1] if instruction == name]


def environment() -> dict[str, str]:
    pairs = (pair.partition("=") for rest in last_stage("ENV") for pair in shlex.split(rest))
    return {name: value for name, _, value in pairs}


def test_image_is_built_in_stages_from_one_exact_image():
    before, built = stages()
    ((_, argument),) = before
    name, _, image = argument.partition("=")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", image)
    assert PULLED.fullmatch(image)
    assert len(built) == 2
    assert [stage[0][1].split()[0] for stage in built] == [f"${{{name}}}"] * 2


def test_last_stage_builds_nothing():
    runs = " ".join(last_stage("RUN"))
    assert not re.search(r"\b(gcc|g\+\+|make|cmake|build-essential|pip|git|curl)\b", runs)
    assert last_stage("COPY") == ["--from=build /opt/reviewmill /opt/reviewmill"]
    assert "--only-binary :all:" in " ".join(rest for name, rest in stages()[1][0] if name == "RUN")


def test_image_runs_as_nobody_special():
    uid, _, gid = last_stage("USER")[-1].partition(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    runs = " ".join(last_stage("RUN"))
    assert f"--uid {uid}" in runs
    assert f"--gid {gid}" in runs
    # Nothing after it becomes root again, and what is installed stays root's.
    names = [name for name, _ in stages()[1][-1]]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_image_serves_by_default_and_can_do_everything_else():
    words = [*json.loads(last_stage("ENTRYPOINT")[-1]), *json.loads(last_stage("CMD")[-1])]
    assert words == ["reviewmill", "serve", "--host", "0.0.0.0"]
    check_command(words[1:])


def test_image_is_looked_after():
    (said,) = last_stage("HEALTHCHECK")
    command = json.loads(said.partition("CMD")[2])
    assert command[:2] == ["python", "-c"]
    assert "'/healthz'" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


def test_all_that_is_written_lies_in_volumes(monkeypatch):
    volumes = [PurePosixPath(volume) for volume in json.loads(last_stage("VOLUME")[-1])]
    for name, value in environment().items():
        if name.startswith("REVIEWMILL_"):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    written = [settings.models_dir, settings.cache_dir, settings.state_dir, settings.service.data_dir]
    for folder in written:
        assert any(PurePosixPath(folder).is_relative_to(volume) for volume in volumes), folder
    assert str(settings.service.port) in last_stage("EXPOSE")


def test_extra_that_the_image_installs_exists():
    built = " ".join(rest for name, rest in stages()[1][0] if name == "RUN")
    (extra,) = re.findall(r"\$\{wheel\}\[(\w+)\]", built)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    assert "reviewmill" in project["scripts"]


def test_context_holds_what_is_copied_and_nothing_else():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for name, rest in stages()[1][0]
        if name == "COPY"
        for source in rest.split()[:-1]
        if not source.startswith("--")
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


# --- compose ----------------------------------------------------------------------------------------------------------


@cache
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def services() -> dict[str, dict]:
    return compose()["services"]


def test_compose_has_the_services():
    profiles = {name: service.get("profiles") for name, service in services().items()}
    optional = {"vllm": ["gpu"], "open-webui": ["chat"], "chat-wiring": ["chat"]}
    assert profiles == dict.fromkeys(("reviewmill", "postgres", "redis")) | optional


def test_images_are_of_exact_versions():
    for name, service in services().items():
        if service["image"] != "reviewmill:local":
            assert PULLED.fullmatch(service["image"]), name
            assert "build" not in service
    for loose in ("redis", "redis:latest", "redis:7", "postgres:alpine"):
        assert not PULLED.fullmatch(loose)


def test_only_what_people_use_is_published_and_only_here():
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert set(published) == {"reviewmill", "open-webui"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert all(service.get("network_mode") != "host" for service in services().values())


def test_databases_cannot_be_reached_from_outside():
    assert compose()["networks"]["inside"]["internal"] is True
    for name in ("postgres", "redis"):
        assert services()[name]["networks"] == ["inside"]


def test_no_password_stands_in_the_file():
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN", variable):
                assert str(value).startswith("/run/secrets/"), (name, variable)
    assert not re.search(r"://[^\s/@]*:[^\s/@]+@", (DEPLOY / "compose.yaml").read_text())
    for name, secret in compose()["secrets"].items():
        assert set(secret) == {"file"}, name
        assert secret["file"].startswith("./secrets/")


def test_secrets_are_used_and_none_is_missing():
    used = {secret for service in services().values() for secret in service.get("secrets", [])}
    assert used == set(compose()["secrets"])
    mounted = set(re.findall(r"/run/secrets/([\w.]+)", (DEPLOY / "compose.yaml").read_text()))
    assert mounted == used


@pytest.mark.parametrize("name", ["reviewmill", "postgres", "redis", "chat-wiring"])
def test_containers_may_do_little(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    if service["image"] != "reviewmill:local":  # which says so itself
        assert service["user"] not in {"root", "0"}


def test_service_starts_when_the_databases_answer():
    waits = services()["reviewmill"]["depends_on"]
    assert waits == {name: {"condition": "service_healthy"} for name in ("postgres", "redis")}
    for name in ("postgres", "redis", "vllm", "open-webui"):
        assert services()[name]["healthcheck"]["test"], name


def test_volumes_are_declared_and_those_of_the_image_are_kept():
    mounted = {volume.partition(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert mounted == set(compose()["volumes"])
    targets = {volume.partition(":")[2] for volume in services()["reviewmill"]["volumes"]}
    assert targets == set(json.loads(last_stage("VOLUME")[-1]))


def test_what_is_left_empty_is_the_default(monkeypatch):
    for name, value in services()["reviewmill"]["environment"].items():
        if name != "REVIEWMILL_CONFIG":
            assert value.endswith(":-}"), name
            monkeypatch.setenv(name, "")
    settings = load_settings()
    assert settings.endpoint is None
    assert settings.model == Settings.model_fields["model"].default
    assert settings.service.public_url is None


# --- the chat in compose ----------------------------------------------------------------------------------------------

SERVICE = "http://reviewmill:8080"
SECRETS = Secrets(webui_key="SIGNS", machine_password="ADMIN")


def resolved(value: str, **given: str) -> str:
    """A value as compose sees it: defaults of variables that are not given, `$$` for a dollar."""
    variable = re.compile(r"(?<!\$)\$\{(\w+):-([^${}]*)\}")
    while found := variable.search(value):
        value = value.replace(found[0], given.get(found[1], found[2]))
    assert not re.search(r"(?<!\$)\$(?!\$)", value), value
    return value.replace("$$", "$")


def of_compose(**given: str) -> dict[str, str]:
    return {name: resolved(value, **given) for name, value in services()["open-webui"]["environment"].items()}


def of_reviewmill_chat(**settings: str | int) -> dict[str, str]:
    """What `reviewmill chat` would give Open WebUI for the same service."""
    url, allowed = origins(load_settings(chat=settings))
    wiring = Wiring(SERVICE, "KEY", ["reviewmill-sentiment"], url, allowed)
    return chat_environment(wiring, SECRETS, Path("/app/backend/data"), slim=True)


def started(tmp_path: Path, name: str, **secrets: str) -> subprocess.CompletedProcess[str]:
    """Run what the container begins with, but show its variables instead of what would come then."""
    shell, options = services()[name]["entrypoint"]
    script = resolved(services()[name]["command"][0]).replace("/run/secrets", str(tmp_path))
    for secret in services()[name]["secrets"]:
        (tmp_path / secret).write_text(secrets.get(secret, ""))
    script, replaced = re.subn(r"^exec .*\Z", "exec env", script, flags=re.MULTILINE | re.DOTALL)
    assert replaced == 1
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run([shell, options, script], env=path, check=False, capture_output=True, text=True)


def variables(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value for name, value in found.items() if name not in {"PATH", "PWD", "SHLVL", "_", "OLDPWD"}}


def comparable(variables: dict[str, str]) -> dict[str, object]:
    """With what JSON says instead of how it is written, and addresses in no order."""
    plain: dict[str, object] = {
        name: json.loads(value) if value.startswith(("[", '{"')) else value for name, value in variables.items()
    }
    return plain | {"CORS_ALLOW_ORIGIN": set(variables["CORS_ALLOW_ORIGIN"].split(";"))}


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, {}),
        ({"CHAT_PORT": "3100"}, {"port": 3100}),
        ({"CHAT_URL": "https://chat.example", "CHAT_HTTPS": "true"}, {"url": "https://chat.example"}),
    ],
)
def test_open_webui_is_started_as_reviewmill_chat_starts_it(tmp_path, given, settings):
    secrets = {"chat_key": "KEY", "webui_secret_key": "SIGNS\n", "webui_admin_password": "ADMIN"}
    here = comparable(of_compose(**given) | variables(started(tmp_path, "open-webui", **secrets)))
    there = comparable(of_reviewmill_chat(**settings))
    # Its image is no installed package; names inside of the compose network go past a proxy; nobody but its first
    # administrator wires it.
    assert there.pop("FROM_INIT_PY") == "true"
    for name in ("NO_PROXY", "no_proxy"):
        there[name] = f"{there[name]},reviewmill"
    there |= {"WEBUI_ADMIN_EMAIL": ChatSettings().admin_email, "WEBUI_ADMIN_NAME": "Administrator"}
    assert here == there


def test_open_webui_has_no_secret_in_its_file(tmp_path):
    secrets = {"chat_key": "KEY", "webui_secret_key": "SIGNS", "webui_admin_password": "ADMIN"}
    inside = variables(started(tmp_path, "open-webui", **secrets))
    assert set(inside.values()) == set(secrets.values())
    assert not set(inside) & set(services()["open-webui"]["environment"])
    secret = {name for name, value in of_reviewmill_chat().items() if value in {"KEY", "SIGNS", "ADMIN"}}
    assert set(inside) == secret


def test_open_webui_says_that_its_key_is_missing(tmp_path):
    done = started(tmp_path, "open-webui", webui_secret_key="SIGNS", webui_admin_password="ADMIN")
    assert done.returncode == 1
    assert "secrets/chat_key is empty" in done.stderr


def test_open_webui_is_the_version_that_reviewmill_chat_installs():
    name, _, tag = services()["open-webui"]["image"].partition(":")
    assert name == "ghcr.io/open-webui/open-webui"
    assert tag == f"v{install.VERSION}-slim"


def test_open_webui_may_do_as_little_as_its_image_allows():
    service = services()["open-webui"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["networks"] == ["outside"]
    assert service["depends_on"] == {"reviewmill": {"condition": "service_healthy"}}
    (volume,) = service["volumes"]
    assert volume.partition(":")[2] == service["environment"]["DATA_DIR"]
    assert service["ports"][0].endswith(":8080")


def test_wiring_is_a_command_of_ours(tmp_path):
    service = services()["chat-wiring"]
    (said,) = re.findall(
        r"^exec reviewmill (.*)\Z", service["command"][0].replace("\\\n", " "), re.MULTILINE | re.DOTALL
    )
    words = shlex.split(said)
    assert words.pop() == "--thumbs"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "chat"
    chat = typer.main.get_command(reviewmill_program()).commands["chat"]
    assert {"--thumbs", *options} <= {name for option in chat.params for name in option.opts}
    assert options == {
        "--webui": "http://open-webui:8080",
        "--service": SERVICE,
        "--service-key-file": "/run/secrets/chat_key",
    }
    assert variables(started(tmp_path, "chat-wiring", webui_admin_password="ADMIN")) == {PASSWORD_VARIABLE: "ADMIN"}
    email = resolved(service["environment"]["REVIEWMILL_CHAT__ADMIN_EMAIL"])
    assert email == of_compose()["WEBUI_ADMIN_EMAIL"] == ChatSettings().admin_email


@pytest.mark.parametrize("path", [DEPLOY / "compose.yaml", CHAT_MANUAL], ids=lambda path: path.name)
def test_key_of_the_chat_may_do_what_the_chat_needs(path):
    head = path.read_text().partition("\nname:")[0].replace("# ", "")
    (line,) = [line for line in command_lines(head.replace("\\\n", " ")) if line.startswith("keys create chat ")]
    words = shlex.split(line)
    assert set(words[words.index("chat") + 2 :: 2]) == {"analyse", "jobs", "chat"}
    assert "> secrets/chat_key" in head
    assert "docker compose --profile chat up" in head


def test_variables_of_the_chat_are_explained():
    used = set(re.findall(r"\$\{(CHAT_\w+):-", (DEPLOY / "compose.yaml").read_text()))
    assert used == set(re.findall(r"`(CHAT_\w+)", CHAT_MANUAL.read_text()))


# --- passwords --------------------------------------------------------------------------------------------------------


def made_secrets(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(DEPLOY / "secrets.sh", folder)
    subprocess.run(["sh", "secrets.sh"], cwd=folder, check=True, capture_output=True)
    return folder / "secrets"


def test_passwords_are_random_and_agree(tmp_path, monkeypatch):
    first, second = made_secrets(tmp_path / "a"), made_secrets(tmp_path / "b")
    passwords = [(folder / "postgres_password").read_text() for folder in (first, second)]
    passwords += [
        re.search(r"^requirepass (\w+)$", (folder / "redis.conf").read_text(), re.MULTILINE)[1]
        for folder in (first, second)
    ]
    names = ("webui_secret_key", "webui_admin_password")
    passwords += [(folder / name).read_text() for folder in (first, second) for name in names]
    assert len(set(passwords)) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)
    monkeypatch.setenv("REVIEWMILL_CONFIG", str(first / "reviewmill.toml"))
    settings = load_settings()
    assert database_url(settings.service) == f"postgresql://reviewmill:{passwords[0]}@postgres:5432/reviewmill"
    assert settings.cache == f"redis://:{passwords[2]}@redis:6379/0"
    variables = services()["postgres"]["environment"]
    assert (variables["POSTGRES_USER"], variables["POSTGRES_DB"]) == ("reviewmill", "reviewmill")
    assert passwords[0] not in repr(settings)


def test_passwords_are_for_their_owner_and_never_replaced(tmp_path):
    folder = made_secrets(tmp_path / "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    # The key of the chat comes later, from the service.
    assert (folder / "chat_key").read_bytes() == b""
    assert (folder / "chat_key").stat().st_mode & 0o777 == 0o644
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = subprocess.run(["sh", "secrets.sh"], cwd=folder.parent, check=False, capture_output=True)
    assert again.returncode == 1
    assert b"nothing was changed" in again.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {Path(secret["file"]).name for secret in compose()["secrets"].values()}


def test_passwords_never_get_into_history_or_image():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/secrets/" in ignored


@pytest.mark.redis
def test_redis_lets_in_who_knows_the_password(tmp_path):
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    file = made_secrets(tmp_path / "a") / "redis.conf"
    password = re.search(r"^requirepass (\w+)$", file.read_text(), re.MULTILINE)[1]
    socket = tmp_path / "s"
    with subprocess.Popen(
        [server, file, "--port", "0", "--dir", tmp_path, "--unixsocket", socket], stdout=subprocess.DEVNULL
    ) as process:
        try:
            with Redis(unix_socket_path=str(socket), password=password, decode_responses=True) as client:
                answers_soon(client)
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            with Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
        finally:
            process.terminate()


def answers_soon(client: Redis) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
        except RedisConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


# --- systemd ----------------------------------------------------------------------------------------------------------


@cache
def unit() -> dict[str, dict[str, list[str]]]:
    """Sections, each with its settings; a setting may occur several times."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (DEPLOY / "reviewmill.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and line[0] != "#":
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return sections


def test_unit_serves_as_a_user_of_its_own():
    service = unit()["Service"]
    program, *words = service["ExecStart"][0].split()
    assert PurePosixPath(program).name == "reviewmill"
    check_command(words)
    assert service["User"] == ["reviewmill"]
    assert unit()["Install"]["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectControlGroups", "yes"),
        ("LockPersonality", "yes"),
        ("UMask", "0077"),
    ],
)
def test_unit_is_hardened(name, value):
    assert unit()["Service"][name] == [value]


def test_unit_and_its_settings_agree_on_what_can_be_written(monkeypatch):
    service = unit()["Service"]
    variables = dict(line.split("=", 1) for line in service["Environment"])
    assert variables["REVIEWMILL_CONFIG"] == "/etc/reviewmill/reviewmill.toml"
    monkeypatch.setenv("REVIEWMILL_CONFIG", str(DEPLOY / "reviewmill.toml"))
    settings = load_settings()
    assert settings.service.host == "127.0.0.1"
    assert settings.service.no_auth is False
    writable = [f"/var/lib/{service['StateDirectory'][0]}", f"/var/cache/{service['CacheDirectory'][0]}"]
    for folder in (settings.models_dir, settings.cache_dir, settings.state_dir, settings.service.data_dir):
        assert any(PurePosixPath(folder).is_relative_to(place) for place in writable), folder
    assert variables["HOME"] == writable[0]


def test_settings_that_are_commented_out_are_settings_too(tmp_path, monkeypatch):
    text = re.sub(r"^# (\w+ = )", r"\1", (DEPLOY / "reviewmill.toml").read_text(), flags=re.MULTILINE)
    assert tomllib.loads(text).keys() > tomllib.loads((DEPLOY / "reviewmill.toml").read_text()).keys()
    (tmp_path / "all.toml").write_text(text)
    monkeypatch.setenv("REVIEWMILL_CONFIG", str(tmp_path / "all.toml"))
    assert load_settings().cache.startswith("redis://")


def test_systemd_takes_the_unit(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "reviewmill.service").read_text()
    # It looks whether the program is there.
    path = tmp_path / "reviewmill.service"
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    said = subprocess.run([program, "verify", path], check=False, capture_output=True, text=True, timeout=30)
    complaints = [line for line in said.stderr.splitlines() if "reviewmill.service" in line]
    assert not complaints


# --- Caddy ------------------------------------------------------------------------------------------------------------


def test_proxy_lets_events_through_and_limits_bodies():
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Caddyfile").read_text(), flags=re.MULTILINE)
    # Under -1 a client that hangs up is not noticed by the service.
    assert "flush_interval" not in text
    assert re.search(r"@whole not path /v1/jobs/\*/events /v1/chat/completions\n\s*encode @whole ", text)
    sizes = [int(size) * 1_000_000 for size in re.findall(r"max_size (\d+)MB", text)]
    limits = ServiceSettings()
    assert sizes[0] > limits.max_upload_bytes + 1_000_000
    assert limits.max_body_bytes < sizes[1] < sizes[0]
    for header in ("Strict-Transport-Security", "X-Content-Type-Options", "-Server"):
        assert header in text


def test_caddy_takes_the_file():
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    said = subprocess.run(
        [program, "validate", "--config", DEPLOY / "Caddyfile", "--adapter", "caddyfile"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert said.returncode == 0, said.stderr
    assert "not formatted" not in said.stderr


# --- the manual -------------------------------------------------------------------------------------------------------


def examples() -> set[tuple[str, str]]:
    """Method and path of every curl command."""
    commands = re.findall(r"^(?:\$ .*)?curl (.*)$", MANUAL.read_text().replace("\\\n", " "), re.MULTILINE)
    found = set()
    for command in commands:
        words = shlex.split(command)
        (url,) = [word for word in words if word.startswith(("$URL", "http://127.0.0.1:8080"))]
        path = url.removeprefix("$URL").removeprefix("http://127.0.0.1:8080").partition("?")[0]
        has_body = any(word in {"-d", "-F", "--data-binary"} for word in words)
        method = words[words.index("-X") + 1] if "-X" in words else "POST" if has_body else "GET"
        found.add((method, path))
    return found


@cache
def routes() -> dict[tuple[str, str], re.Pattern[str]]:
    """Every route, and what its addresses look like."""
    return {
        (method, route.path): re.compile(re.sub(r"\\\{[\w:]+\\\}", "[^/]+", re.escape(route.path)))
        for router in ROUTERS
        for route in router.routes
        for method in route.methods
    }


def route_of(method: str, path: str) -> tuple[str, str] | None:
    fitting = (name for name, pattern in routes().items() if name[0] == method and pattern.fullmatch(path))
    return next(fitting, None)


def test_every_example_is_a_route():
    wrong = {example for example in examples() - {("GET", "/openapi.json")} if route_of(*example) is None}
    assert not wrong


def test_every_route_has_an_example():
    assert set(routes()) == {route_of(*example) for example in examples()} - {None}


def test_examples_in_json_are_json():
    bodies = re.findall(r"-d '(\{.*?\})'", MANUAL.read_text())
    assert len(bodies) > 3
    for body in bodies:
        assert isinstance(json.loads(body), dict)


def test_limits_are_the_settings():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", MANUAL.read_text(), re.MULTILINE)
    assert len(rows) > 8
    defaults = ServiceSettings()
    assert dict(rows) == {name: str(getattr(defaults, name)) for name, _ in rows}


def test_every_type_of_problem_is_explained():
    """By their names in the source: most of them take a broken part to provoke."""
    told = {
        name
        for row in re.findall(r"^\| [\d, ]+ \| (`.*?) \|", MANUAL.read_text(), re.MULTILINE)
        for name in re.findall(r"`([a-z-]+)`", row)
    }
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "reviewmill" / "server").rglob("*.py"))
    raised = set(re.findall(r"Problem\(\s*\d{3},\s*\"([a-z-]+)\"", source))
    assert len(raised) > 15
    # Nobody is there any more to read that one.
    assert raised - {"client-gone"} <= told
    unknown = {name for name in told - raised if f'"{name}"' not in source}
    assert unknown <= {"answer-invalid", "endpoint-unreachable", "endpoint-timeout"}  # named as the errors of rows
    assert TYPE_PREFIX in MANUAL.read_text()


def test_every_metric_is_explained():
    told = set(re.findall(r"`(reviewmill_\w+)`", MANUAL.read_text()))
    known = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()
    }
    assert told == known


def test_settings_of_the_example_are_settings(tmp_path, monkeypatch):
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL)):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        monkeypatch.setenv("REVIEWMILL_CONFIG", str(path))
        assert load_settings().service.data_dir
