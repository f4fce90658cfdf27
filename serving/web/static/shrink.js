// Large photos are made smaller before they are sent: a proxy may refuse them, and a phone's network takes long.
const LARGE = 8_000_000; // bytes
const SIDE = 4000; // pixels

export const isLarge = (file) => file.size > LARGE;

// The photo as a JPEG of at most 4000 pixels a side, or the file itself where the browser cannot read it or gains nothing.
export async function smaller(file) {
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
    const canvas = new OffscreenCanvas(Math.round(picture.width * scale), Math.round(picture.height * scale));
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    const made = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    return made.size < file.size ? new File([made], file.name, { type: "image/jpeg" }) : file;
  } catch {
    return file;
  }
}
