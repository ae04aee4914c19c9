// node CLIENT.mjs ADDRESS MODEL CALL...: makes the calls, and writes a line of JSON of what came of each.

export const [address, model, ...asked] = process.argv.slice(2)

export async function run(calls) {
  for (const name of asked) {
    let error = null
    try {
      if (!calls[name]) throw new Error("no such call")
      await calls[name]()
    } catch (caught) {
      error = `${caught.code ?? ""} ${caught.stack ?? caught}`
    }
    console.log(JSON.stringify({ name, error }))
  }
}
