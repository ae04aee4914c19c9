// OpenAI's client for Node, unmodified.
import assert from "node:assert/strict"
import OpenAI from "openai"
import { address, model, run } from "./run.mjs"

const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 })
const hello = { role: "user", content: "Say hello." }
const brief = { model, messages: [hello], max_tokens: 200, seed: 1 }
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Bonn", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
}
const weather = { type: "function", function: { name: "weather", description: "Tells it.", parameters, strict: true } }
const forced = { tools: [weather], tool_choice: "required", parallel_tool_calls: false }
const schema = { type: "json_schema", json_schema: { name: "place", schema: parameters, strict: true } }
const input = { model, input: "Say hello.", max_output_tokens: 20 }

const isCity = (text) => assert.ok(["Bonn", "Rome"].includes(JSON.parse(text).city), text)

await run({
  async models() {
    const listed = []
    for await (const entry of client.models.list()) listed.push(entry.id)
    assert.equal((await client.models.retrieve(listed[0])).id, listed[0])
  },

  async chat() {
    const answer = await client.chat.completions.create({ ...brief, max_tokens: 20 })
    const { message, finish_reason } = answer.choices[0]
    assert.ok(message.content)
    assert.ok(["stop", "length"].includes(finish_reason))
    const again = await client.chat.completions.create({ ...brief, max_tokens: 5, messages: [hello, message, hello] })
    assert.ok(again.choices[0].message.content)
  },

  async stream() {
    const stream = await client.chat.completions.create({
      ...brief,
      max_tokens: 20,
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ""
    let usage = null
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ""
      usage = chunk.usage ?? usage
    }
    assert.ok(text)
    assert.ok(usage.completion_tokens > 0)
  },

  async helper() {
    const runner = client.chat.completions.stream({ ...brief, max_tokens: 20 })
    let text = ""
    runner.on("content", (delta) => (text += delta))
    assert.equal(await runner.finalContent(), text)
  },

  async parse() {
    const answer = await client.chat.completions.parse({ ...brief, response_format: schema })
    isCity(answer.choices[0].message.content)
  },

  async tools() {
    const called = (await client.chat.completions.create({ ...brief, ...forced })).choices[0].message
    const [call] = called.tool_calls
    assert.equal(call.function.name, "weather")
    isCity(call.function.arguments)
    const result = { role: "tool", tool_call_id: call.id, content: "Sunny." }
    const messages = [hello, called, result]
    const answer = await client.chat.completions.create({ ...brief, ...forced, tool_choice: "none", messages, max_tokens: 5 })
    assert.ok(answer.choices[0].message.content)
  },

  async toolsStreamed() {
    const runner = client.chat.completions.stream({ ...brief, ...forced })
    isCity((await runner.finalFunctionToolCall()).arguments)
  },

  async runTools() {
    let city = ""
    const tool = { ...weather.function, parse: JSON.parse, function: (args) => ((city = args.city), "Sunny.") }
    const runner = client.chat.completions.runTools({
      ...brief,
      tools: [{ type: "function", function: tool }],
      tool_choice: { type: "function", function: { name: "weather" } },
      parallel_tool_calls: false,
    })
    await runner.done()
    isCity(JSON.stringify({ city }))
  },

  async completions() {
    const answer = await client.completions.create({ model, prompt: ["Once", "Twice"], max_tokens: 4, echo: true })
    assert.deepEqual(answer.choices.map((choice) => choice.text.slice(0, 4)), ["Once", "Twic"])
  },

  async embeddings() {
    const { data } = await client.embeddings.create({ model, input: ["a", "b"] })
    assert.equal(data.length, 2)
    assert.equal(typeof data[0].embedding[0], "number")
  },

  async responses() {
    const answer = await client.responses.create(input)
    assert.ok(answer.output_text)
    const again = await client.responses.create({ ...input, previous_response_id: answer.id })
    assert.ok(again.output_text)
    assert.equal((await client.responses.retrieve(answer.id)).output_text, answer.output_text)
    await client.responses.delete(answer.id)
  },

  async responsesStreamed() {
    const stream = client.responses.stream(input)
    let text = ""
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta
    assert.equal((await stream.finalResponse()).output_text, text)
    assert.ok(text)
  },

  async responsesTools() {
    const tool = { type: "function", name: "weather", parameters, strict: true }
    const answer = await client.responses.create({
      ...input,
      max_output_tokens: 200,
      tools: [tool],
      tool_choice: "required",
      parallel_tool_calls: false,
    })
    isCity(answer.output.find((item) => item.type === "function_call").arguments)
  },

  async errors() {
    await assert.rejects(client.chat.completions.create({ ...brief, n: 0 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError)
      return error.param === "n"
    })
    await assert.rejects(client.chat.completions.create({ ...brief, model: "other" }), OpenAI.NotFoundError)
  },
})
