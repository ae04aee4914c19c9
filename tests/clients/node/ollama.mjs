// Ollama's client for Node, unmodified.
import assert from "node:assert/strict"
import { Ollama } from "ollama"
import { address, model, run } from "./run.mjs"

const client = new Ollama({ host: address })
const hello = { role: "user", content: "Say hello." }
const options = { num_predict: 20, seed: 1 }
const schema = {
  type: "object",
  properties: { city: { type: "string", enum: ["Bonn", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
}

await run({
  async chat() {
    const answer = await client.chat({ model, messages: [hello], options })
    assert.ok(answer.message.content)
    assert.ok(answer.eval_count > 0)
    const again = await client.chat({ model, messages: [hello, answer.message, hello], options })
    assert.ok(again.message.content)
  },

  async chatStreamed() {
    let text = ""
    let last = null
    for await (const part of await client.chat({ model, messages: [hello], options, stream: true })) {
      text += part.message.content
      last = part
    }
    assert.ok(text)
    assert.ok(last.done)
  },

  async generate() {
    assert.ok((await client.generate({ model, prompt: "Say hello.", system: "Be brief.", options })).response)
    let text = ""
    for await (const part of await client.generate({ model, prompt: "Say hello.", options, stream: true })) text += part.response
    assert.ok(text)
  },

  async format() {
    const { message } = await client.chat({ model, messages: [hello], format: schema, options: { seed: 1 } })
    assert.ok(["Bonn", "Rome"].includes(JSON.parse(message.content).city))
  },

  async inventory() {
    const { models } = await client.list()
    assert.equal(models[0].model, model)
    assert.equal((await client.ps()).models[0].model, model)
    assert.ok((await client.show({ model })).capabilities.includes("completion"))
    assert.ok((await client.version()).version)
  },

  async embed() {
    assert.equal((await client.embed({ model, input: ["a", "b"] })).embeddings.length, 2)
    assert.ok((await client.embeddings({ model, prompt: "a" })).embedding.length > 0)
  },

  async abort() {
    const stream = await client.chat({ model, messages: [hello], options, stream: true })
    stream.abort()
    await assert.rejects(async () => {
      for await (const part of stream) void part
    }, /abort/i)
    assert.ok((await client.chat({ model, messages: [hello], options })).message.content)
  },

  async errors() {
    await assert.rejects(client.chat({ model: "other", messages: [hello] }), (error) => error.status_code === 404)
    await assert.rejects(client.push({ model }), (error) => error.status_code === 501)
    await assert.rejects(client.delete({ model: "other" }), (error) => error.status_code === 403)
  },
})
