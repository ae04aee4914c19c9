// What is being written to the database. A browser may drop such writes with the page that began them, so they are laid
// down as it is left, and the page that comes next writes them, in whichever tab.

const KEY = "edgellm-unwritten-"; // and the id of the conversation

export class Unwritten {
  constructor() {
    this.writes = new Set();
  }

  begin(conversation, messages) {
    const write = { conversation, messages };
    this.writes.add(write);
    return write;
  }

  end(write) {
    this.writes.delete(write);
  }

  // Nothing of a removed conversation is written later.
  drop({ id }) {
    for (const write of this.writes) if (write.conversation.id === id) this.end(write);
  }

  layDown() {
    const records = new Map();
    for (const { conversation, messages } of this.writes) {
      const { head } = conversation;
      const kept = records.get(head.id)?.messages ?? [];
      records.set(head.id, { head, messages: [...new Set([...kept, ...messages])] });
    }
    for (const [id, record] of records) localStorage.setItem(KEY + id, JSON.stringify(record));
  }

  // What was laid down: `write` each, which throws where it cannot, and it stays.
  static async takeUp(write) {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(KEY))) {
      const { head, messages } = JSON.parse(localStorage.getItem(key));
      await write(head, messages);
      localStorage.removeItem(key);
    }
  }
}
