import bcrypt from 'bcryptjs';

const ROUNDS = 12;

// The blocking calls are the right ones here: in a worker they hold up nobody.
export const hash = (password) => bcrypt.hashSync(password, ROUNDS);
export const verify = (password, hashed) => bcrypt.compareSync(password, hashed);
