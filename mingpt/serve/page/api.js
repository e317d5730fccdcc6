// Requests to the server: JSON, server-sent events, and errors in words.

function rejectUnreachable(error) {
  if (error.name === "AbortError") throw error;
  throw new Error("The server cannot be reached. Is it running?");
}

/** The response to a GET, or to a POST of `body`. Throws an Error with the server's message and the status. */
async function request(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const options = body && { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await fetch(path, options).catch(rejectUnreachable);
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server answered with status ${response.status}.`;
  const seconds = response.headers.get("Retry-After");
  const text = seconds ? `${message} Try again in ${seconds} s.` : message;
  throw Object.assign(new Error(text), { status: response.status });
}

export const requestJson = async (...options) => (await request(...options)).json();

/** The events of a streamed response up to [DONE]. The server writes each as one line. */
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = ""; // of a line that has not arrived completely
  for (;;) {
    const { value, done } = await reader.read().catch(rejectUnreachable);
    if (done) throw new Error("The connection ended before the answer was complete.");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data:"))) {
      const data = line.slice("data:".length).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
