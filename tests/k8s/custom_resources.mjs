// Strict checks of custom resources, on standard input as a JSON list: node custom_resources.mjs
// Prints one fault per line. The generated validators check values, but let unknown fields pass; those
// are found by TypeScript, which refuses them in a literal of the resource's type.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const KINDS = {
  BackendTLSPolicy: "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/BackendTLSPolicy",
  GRPCRoute: "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GRPCRoute",
  PodMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
  PrometheusRule: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
  ScaledObject: "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
};
const here = dirname(fileURLToPath(import.meta.url));
const resources = JSON.parse(readFileSync(0, "utf8"));
const tell = (resource, text) =>
  console.log(`${resource.kind} ${resource.metadata.name}: ${text.replaceAll("\n", " ")}`);

const lines = [];
for (const [number, resource] of resources.entries()) {
  const place = KINDS[resource.kind];
  if (!place) {
    tell(resource, "no schema is known for this kind");
    continue;
  }
  const Model = (await import(place))[resource.kind];
  if (resource.apiVersion !== Model.apiVersion) tell(resource, `not ${Model.apiVersion}`);
  try {
    new Model(resource).validate();
  } catch (error) {
    tell(resource, error.message);
  }
  const text = JSON.stringify(resource);
  lines.push({ resource, text: `const r${number}: import("${place}").I${resource.kind} = ${text};` });
}

const name = join(here, "resources.ts");
const source = lines.map((line) => line.text).join("\n") + "\nexport {};\n";
const options = {
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  noEmit: true,
  skipLibCheck: true,
  strict: true,
  types: [],
};
const host = ts.createCompilerHost(options);
const { fileExists, getSourceFile } = host;
host.fileExists = (path) => path === name || fileExists(path);
host.getSourceFile = (path, version, ...rest) =>
  path === name
    ? ts.createSourceFile(path, source, version)
    : getSourceFile.call(host, path, version, ...rest);
const program = ts.createProgram([name], options, host);
for (const fault of ts.getPreEmitDiagnostics(program)) {
  const text = ts.flattenDiagnosticMessageText(fault.messageText, " ");
  if (!fault.file || fault.file.fileName !== name) {
    console.log(`typescript: ${text}`);
    continue;
  }
  tell(lines[fault.file.getLineAndCharacterOfPosition(fault.start).line].resource, text);
}
