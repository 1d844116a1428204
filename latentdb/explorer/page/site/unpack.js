// Some web servers unpack .gz files on the way, others do not.
export async function unpacked(data) {
  const head = new Uint8Array(data, 0, 2);
  if (head[0] !== 0x1f || head[1] !== 0x8b) return data;
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

export const parsed = async (data) => JSON.parse(new TextDecoder().decode(await unpacked(data)));
