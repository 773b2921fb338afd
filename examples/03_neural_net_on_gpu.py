"""A neural network in an actor that has a GPU, with TensorFlow's graphs and sessions.

``init(num_gpus=8)`` declares eight logical GPUs where the machine has none; TensorFlow
then computes on the CPU (``allow_soft_placement``).
"""

import os
import socket

# Before TensorFlow is imported, here and (since it inherits them) in the actor: no chatter.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import tensorflow.compat.v1 as tf

import celery_actors as ray

ray.init(num_gpus=8)


def construct_network():
    x = tf.placeholder(tf.float32, [None, 784])
    y_ = tf.placeholder(tf.float32, [None, 10])

    W = tf.Variable(tf.zeros([784, 10]))  # noqa: N806 - as in the formula
    b = tf.Variable(tf.zeros([10]))
    y = tf.nn.softmax(tf.matmul(x, W) + b)

    cross_entropy = tf.reduce_mean(-tf.reduce_sum(y_ * tf.log(y + 1e-10), axis=[1]))
    train_step = tf.train.GradientDescentOptimizer(0.5).minimize(cross_entropy)
    correct_prediction = tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1))
    accuracy = tf.reduce_mean(tf.cast(correct_prediction, tf.float32))

    return x, y_, train_step, accuracy


@ray.remote(num_gpus=1)
class NeuralNetOnGPU:
    def __init__(self, mnist_data):
        self.mnist = mnist_data
        # Which GPUs TensorFlow may use; must be said before the session is made.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([str(i) for i in ray.get_gpu_ids()])
        with tf.Graph().as_default(), tf.device("/gpu:0"):
            self.x, self.y_, self.train_step, self.accuracy = construct_network()
            # Allow this to run on CPUs if there aren't any GPUs.
            config = tf.ConfigProto(allow_soft_placement=True)
            self.sess = tf.Session(config=config)
            # Initialize the network.
            init = tf.global_variables_initializer()
            self.sess.run(init)

    def train(self, num_steps):
        for _ in range(num_steps):
            batch_xs, batch_ys = self.mnist.train.next_batch(100)
            self.sess.run(self.train_step, feed_dict={self.x: batch_xs, self.y_: batch_ys})

    def get_accuracy(self):
        return self.sess.run(
            self.accuracy,
            feed_dict={self.x: self.mnist.test.images, self.y_: self.mnist.test.labels},
        )


class DataSet:
    """Images of 784 pixels between 0 and 1, labels one-hot."""

    def __init__(self, images, labels):
        self.images = images.reshape(len(images), 784).astype(np.float32)
        self.labels = np.eye(10, dtype=np.float32)[labels]
        self.random = np.random.default_rng(0)

    def next_batch(self, size):
        chosen = self.random.integers(len(self.images), size=size)
        return self.images[chosen], self.labels[chosen]


class Mnist:
    """The two data sets, as TensorFlow's old tutorial module called them."""

    def __init__(self):
        try:
            (images, labels), (test_images, test_labels) = fetch_mnist()
            print("Data: MNIST.")
        except Exception as error:  # noqa: BLE001 - Keras raises bare Exceptions here
            reason = str(error).partition("\n")[0]
            print(f"Data: scikit-learn's digits, since MNIST couldn't be fetched ({reason}).")
            (images, labels), (test_images, test_labels) = bundled_digits()
        self.train = DataSet(images / 255.0, labels)
        self.test = DataSet(test_images / 255.0, test_labels)


def fetch_mnist():
    """Keras's own loader: downloads 11 MB once, then reads its copy."""
    socket.setdefaulttimeout(5)
    try:
        return tf.keras.datasets.mnist.load_data()
    finally:
        socket.setdefaulttimeout(None)


def bundled_digits():
    """1,797 digits of 8 x 8 pixels, enlarged to MNIST's 28 x 28."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    enlarged = np.kron(digits.images * (255 / 16), np.ones((1, 3, 3)))
    images = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1400], order[1400:]
    return (images[train], digits.target[train]), (images[test], digits.target[test])


mnist = Mnist()

# Create the actor.
nn = NeuralNetOnGPU.remote(mnist)

# Run a few steps of training and print the accuracy.
nn.train.remote(100)
accuracy = ray.get(nn.get_accuracy.remote())
print(f"Accuracy is {accuracy}.")
