// The documentation of the API: its routes and the fields of their requests, from the server's own OpenAPI schema.

import { requestJson } from "./api.js";
import { h } from "./dom.js";

const api = await requestJson("/openapi.json");
const resolve = (schema) => (schema.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);

/** The type of a field in words, with the limits of a number. */
function formatType(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(formatType).join(" or ");
  if (schema.type === "array") return `list of ${formatType(schema.items)}`;
  const limits = Object.entries({ ">=": schema.minimum, ">": schema.exclusiveMinimum, "<=": schema.maximum });
  const given = limits.filter(([, limit]) => limit !== undefined).map(([sign, limit]) => ` ${sign} ${limit}`);
  return (schema.enum ?? [schema.const ?? schema.type]).join(" or ") + given.join(",");
}

function renderFields({ properties, required = [] }) {
  const rows = Object.entries(properties).map(([name, schema]) => {
    const value = required.includes(name) ? "required" : JSON.stringify(schema.default ?? null);
    return h("tr", {}, ...[name, formatType(schema), value, schema.description ?? ""].map((text) => h("td", {}, text)));
  });
  const header = ["field", "type", "default", ""].map((text) => h("th", {}, text));
  return h("table", {}, h("tr", {}, ...header), ...rows);
}

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, { requestBody, responses }] of Object.entries(methods)) {
    const body = requestBody?.content["application/json"].schema;
    const statuses = `Status: ${Object.keys(responses).join(", ")}`;
    const fields = body ? [renderFields(resolve(body))] : [];
    document.querySelector("main").append(h("h2", {}, `${method.toUpperCase()} ${path}`), ...fields, h("p", {}, statuses));
  }
}
