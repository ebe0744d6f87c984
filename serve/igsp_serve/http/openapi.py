"""The OpenAPI document: what FastAPI makes of the routes, with this server's errors and keys."""

from typing import Any

from fastapi import FastAPI

from igsp_serve.http.keys import OPEN_PATHS, is_admin

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the server: `Authorization: Bearer KEY`."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
"""Ways to give a key. /docs has its Authorize button from these, and generated clients send one."""

REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Id of the request in the log and in the answer; one is made unless given.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
"""What every request may have."""


def describe(app: FastAPI, *, keys: bool, public: frozenset[str] = frozenset()) -> None:
    """Finish the document of `app` when it is asked for.

    Args:
        app: with all its routes.
        keys: routes need a key.
        public: paths that need none nevertheless.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            _drop_foreign_errors(document)
            _name_inline_schemas(document)
            document["components"]["securitySchemes"] = SCHEMES
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    operation["security"] = _security(method.upper(), path, keys=keys, public=public)
                    operation.setdefault("parameters", []).append(REQUEST_ID)
        return make()

    app.openapi = openapi  # type: ignore[method-assign]


def _security(method: str, path: str, *, keys: bool, public: frozenset[str]) -> list[dict[str, list[str]]]:
    either: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    # Paths of the document hold names for what an admin's request holds values.
    if is_admin(method, path):
        return either
    if path in OPEN_PATHS or path in public:
        return []
    return either if keys else [*either, {}]


def _drop_foreign_errors(document: dict[str, Any]) -> None:
    """Leave out the error FastAPI adds to every route with parameters: errors here have another form."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _name_inline_schemas(document: dict[str, Any]) -> None:
    """Put schemas that stand in answers among the components: a generated client makes one class of each."""
    components = document["components"]["schemas"]
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    schema = content.get("schema", {})
                    name = schema.get("title", "")
                    if "properties" in schema and components.setdefault(name, schema) == schema:
                        content["schema"] = {"$ref": f"#/components/schemas/{name}"}
