// A client in another language: unary, streaming, cancel, deadline, refusal.
// Usage: node client.js ADDRESS PROTO_DIR REQUEST LONG_REQUEST, the requests as JSON, the second one
// with an answer of hundreds of tokens. Prints one JSON object of what it saw.
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, protos, short, long] = process.argv.slice(2);
const request = JSON.parse(short);
const longRequest = JSON.parse(long);
const definition = protoLoader.loadSync("deltafleet/v1/inference.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).deltafleet.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure());

function unary(request, options = {}) {
  return new Promise((resolve, reject) => {
    client.Generate(request, new grpc.Metadata(), options, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

function stream(request) {
  return new Promise((resolve, reject) => {
    const seen = { decisions: 0, texts: 0, text: "", summary: null };
    client
      .StreamGenerate(request)
      .on("data", (event) => {
        if (event.event === "decision") seen.decisions += 1;
        if (event.event === "text") {
          seen.texts += 1;
          seen.text += event.text;
        }
        if (event.event === "summary") seen.summary = event.summary;
      })
      .on("error", reject)
      .on("end", () => resolve(seen));
  });
}

function cancelAfterFirstText(request) {
  return new Promise((resolve) => {
    const call = client.StreamGenerate(request);
    call
      .on("data", (event) => event.event === "text" && call.cancel())
      .on("error", (error) => resolve(error.code))
      .on("end", () => resolve(grpc.status.OK));
  });
}

async function refusal(request, options) {
  try {
    await unary(request, options);
    return { code: grpc.status.OK };
  } catch (error) {
    return { code: error.code, details: error.details };
  }
}

const seen = {
  unary: await unary(request),
  stream: await stream(request),
  cancel: await cancelAfterFirstText(longRequest),
  deadline: await refusal(longRequest, { deadline: Date.now() + 1 }),
  empty: await refusal({ prompt: "  " }),
  after: await unary(request),
};
console.log(JSON.stringify(seen));
client.close();
