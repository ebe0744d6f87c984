// Classifies pictures with model.onnx: in browsers with onnxruntime-web, in node with onnxruntime-node.

const SPECIAL = { auto: -1, none: -2 };

/** Pixels of a picture with alpha laid on white: RGBA bytes [H * W * 4] -> RGB bytes [H * W * 3]. */
export function onWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      rgb[to + channel] = Math.round((rgba[from + channel] * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return rgb;
}

export class Classifier {
  /**
   * @param ort the module onnxruntime-web or onnxruntime-node
   * @param session an InferenceSession of model.onnx
   * @param labels the content of labels.json
   */
  constructor(ort, session, labels) {
    this.ort = ort;
    this.session = session;
    this.labels = labels;
  }

  /**
   * Classifies one picture, already turned as its EXIF data say.
   * @param rgba bytes [height * width * 4]
   * @param task "auto", "none" for plain CLIP, or the name of a task
   * @returns {task, predictions: [{label, task, score}, ...]}, best first; task is null where plain CLIP answered
   */
  async classify(rgba, width, height, task = "auto") {
    const { ort, labels } = this;
    const index = Object.hasOwn(SPECIAL, task) ? SPECIAL[task] : labels.tasks.indexOf(task);
    if (index === -1 && task !== "auto") {
      throw new Error(`there is no task ${task}; there are ${labels.tasks.join(", ")}, and auto and none`);
    }
    const found = await this.session.run({
      image: new ort.Tensor("uint8", onWhite(rgba), [height, width, 3]),
      task: new ort.Tensor("int64", BigInt64Array.of(BigInt(index)), [1]),
    });
    const used = Number(found.used_task.data[0]);
    const name = used < 0 ? null : labels.tasks[used];
    const predictions = labels.labels
      .map(({ label, task: of }, place) => ({ label, task: of, score: found.probabilities.data[place] }))
      .filter((entry) => name === null || entry.task === name)
      .sort((a, b) => b.score - a.score);
    return { task: name, predictions };
  }
}
