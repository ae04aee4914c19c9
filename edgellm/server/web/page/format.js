// Numbers as they are shown.

export const count = (n) => n.toLocaleString("en");
export const rate = (n) => (n < 10 ? n.toFixed(1) : n.toFixed(0));
export const mebibytes = (n) => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(0)} MiB`);
export const megabytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : `${(n / 1e6).toFixed(1)} MB`);
export const seconds = (s) => (s < 9.95 ? `${s.toFixed(1)} s` : s < 100 ? `${s.toFixed(0)} s` : `${(s / 60).toFixed(1)} min`);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
