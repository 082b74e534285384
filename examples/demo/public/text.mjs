import { count, size } from './format.mjs';

/**
 * The text to compare: one of the server's, or one's own, pasted, typed or from a file.
 *
 * @param {HTMLFormElement} form
 */
export async function createText(form) {
  const { text, file } = form.elements;
  const presets = new Map();
  let own = '';

  for (const preset of await (await fetch('texts')).json()) {
    presets.set(preset.id, preset);
    const label = document.createElement('label');
    label.innerHTML = `<input type="radio" name="source" value="${preset.id}"><span>${preset.title}</span>`;
    form.querySelector('[value="own"]').parentElement.before(label);
  }
  const { source } = form.elements;

  async function usePreset(id) {
    source.value = id;
    const response = await fetch(`texts/${id}`);
    const body = await response.text();
    if (source.value === id) show(body);
  }

  async function useFile(chosen) {
    if (!chosen) return;
    own = await chosen.text();
    source.value = 'own';
    show(own);
  }

  function show(body) {
    text.value = body;
    text.scrollTop = 0;
    showSize();
  }

  function showSize() {
    const preset = presets.get(source.value);
    const length = preset ? `${count(preset.sentences)} sentences` : `${count(text.value.length)} characters`;
    form.querySelector('output').textContent = `${length}, ${size(new Blob([text.value]).size)}`;
  }

  form.addEventListener('change', ({ target }) => {
    if (target.name !== 'source') return;
    if (target.value !== 'own') usePreset(target.value);
    else show(own);
  });
  text.addEventListener('input', () => {
    own = text.value;
    source.value = 'own';
    showSize();
  });
  file.addEventListener('change', () => {
    useFile(file.files[0]);
    file.value = '';
  });
  for (const type of ['dragover', 'dragleave', 'drop']) {
    text.addEventListener(type, (event) => {
      if (!event.dataTransfer.types.includes('Files')) return;
      event.preventDefault();
      text.classList.toggle('dropping', type === 'dragover');
      if (type === 'drop') useFile(event.dataTransfer.files[0]);
    });
  }
  await usePreset('long');

  return {
    get title() {
      return presets.get(source.value)?.title ?? 'Own text';
    },
    get value() {
      return text.value;
    },
  };
}
