// Has Perfetto's trace processor answer requests, as Perfetto's viewer does: its engine runs in a
// worker and takes bytes of Perfetto's `TraceProcessorRpcStream`. The page's file input has the
// engine's files and the requests. Leaves a function that gives the replies, in base 64.
//
// Source of what the engine asks of its worker: Perfetto v52.0, `ui/src/engine/index.ts` and
// `ui/src/engine/wasm_bridge.ts`.

function engine({ data: files }) {
  const named = name => files.find(file => file.name === name);
  // The engine loads its WebAssembly by name.
  self.XMLHttpRequest = class {
    open(method, url) {
      this.file = named(url.split("/").pop());
    }
    send() {
      this.response = new FileReaderSync().readAsArrayBuffer(this.file);
    }
  };
  const replies = [];
  const port = { postMessage: bytes => replies.push(bytes) };
  const answer = () => {
    const requests = new FileReaderSync().readAsArrayBuffer(named("requests"));
    port.onmessage({ data: new Uint8Array(requests) });
    postMessage(new Blob(replies));
  };
  importScripts(URL.createObjectURL(named("engine_bundle.js")));
  self.onmessage({ data: port });
  // The engine is ready when the promises that are kept by now have been followed up.
  setTimeout(answer);
}

async function replies(seconds) {
  const source = new Blob([`onmessage = ${engine}`], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source));
  try {
    const blob = await new Promise((done, fail) => {
      worker.onmessage = message => done(message.data);
      worker.onerror = error => fail(new Error(error.message));
      setTimeout(() => fail(new Error(`no answer within ${seconds} seconds`)), seconds * 1000);
      worker.postMessage([...document.querySelector("input").files]);
    });
    const reader = new FileReader();
    await new Promise(done => {
      reader.onload = done;
      reader.readAsDataURL(blob);
    });
    return reader.result.split(",")[1];
  } finally {
    worker.terminate();
  }
}
