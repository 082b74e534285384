/** A module that cannot be imported. Its query says how: it throws, or it ends its process. */
if (import.meta.url.endsWith('?exits')) process.exit(9);
throw Object.assign(new Error('not today'), { status: 418 });
