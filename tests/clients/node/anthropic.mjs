// Anthropic's client for Node, unmodified.
import assert from "node:assert/strict"
import Anthropic from "@anthropic-ai/sdk"
import { address, model, run } from "./run.mjs"

const client = new Anthropic({ baseURL: address, apiKey: "none", maxRetries: 0 })
const hello = { role: "user", content: "Say hello." }
const brief = { model, messages: [hello], max_tokens: 400, seed: 1 }
const input_schema = {
  type: "object",
  properties: { city: { type: "string", enum: ["Bonn", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
}
const forced = {
  tools: [{ name: "weather", description: "Tells it.", input_schema }],
  tool_choice: { type: "any", disable_parallel_tool_use: true },
}
const isCity = (city) => assert.ok(["Bonn", "Rome"].includes(city), city)

await run({
  async create() {
    const answer = await client.messages.create({ ...brief, max_tokens: 20, system: "Be brief." })
    assert.ok(answer.content[0].text)
    assert.ok(answer.usage.output_tokens > 0)
    const messages = [hello, { role: answer.role, content: answer.content }, hello]
    assert.ok((await client.messages.create({ ...brief, max_tokens: 5, messages })).content[0].text)
  },

  async events() {
    const kinds = new Set()
    for await (const event of await client.messages.create({ ...brief, max_tokens: 20, stream: true })) kinds.add(event.type)
    for (const kind of ["message_start", "content_block_delta", "message_delta", "message_stop"]) assert.ok(kinds.has(kind))
  },

  async helper() {
    const stream = client.messages.stream({ ...brief, max_tokens: 20 })
    let text = ""
    stream.on("text", (delta) => (text += delta))
    assert.equal(await stream.finalText(), text)
    assert.ok(text)
  },

  async tools() {
    const called = await client.messages.create({ ...brief, ...forced })
    const call = called.content.find((block) => block.type === "tool_use")
    assert.equal(called.stop_reason, "tool_use")
    isCity(call.input.city)
    const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "Sunny." }] }
    const answer = await client.messages.create({
      ...brief,
      ...forced,
      tool_choice: { type: "none" },
      max_tokens: 5,
      messages: [hello, { role: "assistant", content: called.content }, result],
    })
    assert.equal(answer.role, "assistant")
  },

  async toolsStreamed() {
    const { content } = await client.messages.stream({ ...brief, ...forced }).finalMessage()
    isCity(content.find((block) => block.type === "tool_use").input.city)
  },

  async parse() {
    const format = { type: "json_schema", schema: input_schema }
    const answer = await client.messages.create({ ...brief, output_config: { format } })
    isCity(JSON.parse(answer.content[0].text).city)
  },

  async countTokens() {
    assert.ok((await client.messages.countTokens({ model, messages: [hello] })).input_tokens > 0)
  },

  async errors() {
    await assert.rejects(client.messages.create({ ...brief, max_tokens: 0 }), Anthropic.BadRequestError)
    await assert.rejects(client.messages.create({ ...brief, model: "other" }), Anthropic.NotFoundError)
  },
})
