/** A module that takes its time to import, as real ones do. */
for (const end = Date.now() + 120; Date.now() < end; );

export function echo({ id, nonce }) {
  return { id, proof: [...nonce].reverse().join('') };
}
